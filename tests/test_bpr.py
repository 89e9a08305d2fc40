"""BPR: loss and fold-in against loops, what it learns against another library, and where new users start.

Dimension key: U users, I items, D factors, B triples, L support, S steps, N negatives.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rivals import rival_config

from metacsr_jax.baselines.bpr import bpr, fold_in, init, triple_loss
from metacsr_jax.cases import case_batch
from metacsr_jax.config import BPRConfig
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.evaluate import rank_scenario
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.problem import Problem, scenario_batches
from metacsr_jax.protocol import build_protocol, training_events

USERS, ITEMS, DIM = 4, 6, 3


@pytest.fixture(scope="module")
def params():
    drawn = init(jax.random.key(1), USERS, ITEMS, DIM, 0.7)
    return {**drawn, "bias": jnp.linspace(-0.5, 0.5, ITEMS)}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("item_bias", [True, False])
def test_the_loss_of_triples(params, item_bias):
    config = BPRConfig(regularisation=0.03, item_bias=item_bias)
    user_B, item_B, negative_B = np.array([0, 3, 3]), np.array([1, 2, 2]), np.array([5, 0, 4])
    p, q, b = (np.asarray(params[name], float) for name in ("user", "item", "bias"))
    total = 0.0
    for u, i, j in zip(user_B, item_B, negative_B, strict=True):
        margin = p[u] @ q[i] - p[u] @ q[j] + item_bias * (b[i] - b[j])
        norms = sum(x**2 for row in (p[u], q[i], q[j]) for x in row)
        total += -math.log(sigmoid(margin)) + 0.03 * norms
    value = triple_loss(params, config, user_B, item_B, negative_B)
    np.testing.assert_allclose(value, total / 3, rtol=1e-5)


def test_fold_in_takes_steps_of_the_loss_on_the_real_support_only(params):
    """Two steps of p <- p - rate * gradient, with other negatives in each; the second slot is padding."""
    config = BPRConfig(regularisation=0.02, adapt_rate=0.5)
    item_L, real_L = np.array([2, 0, 4]), np.array([True, False, True])
    negative_SLN = np.array([[[1, 3], [5, 5], [0, 0]], [[5, 1], [2, 2], [3, 3]]])
    q, b = np.asarray(params["item"], float), np.asarray(params["bias"], float)
    start_D = np.array([0.3, -0.2, 0.1], np.float32)
    p = start_D.astype(float)
    for negative_LN in negative_SLN:
        gradient = 2 * 0.02 * p
        for i, negatives, real in zip(item_L, negative_LN, real_L, strict=True):
            for j in negatives:
                margin = p @ (q[i] - q[j]) + b[i] - b[j]
                gradient = gradient - real * (1 - sigmoid(margin)) * (q[i] - q[j]) / (2 * 2)
        p = p - 0.5 * gradient
    folded = fold_in(params, config, start_D, item_L, real_L, negative_SLN)
    np.testing.assert_allclose(folded, p, rtol=1e-4)
    other = fold_in(params, config, start_D, np.array([2, 5, 4]), real_L, negative_SLN)
    np.testing.assert_array_equal(other, folded)


def clusters(users=1000, items=90, events=20, groups=3, seed=0) -> Interactions:
    """Users who take four fifths of their items from their own part of the catalogue, in no order."""
    generator = np.random.default_rng(seed)
    chosen = []
    for user in range(users):
        weight_I = np.where(np.arange(items) % groups == user % groups, 4.0 * (groups - 1), 1.0)
        chosen.append(generator.choice(items, events, replace=False, p=weight_I / weight_I.sum()))
    user_E = np.repeat(np.arange(users), events)
    return Interactions.from_ids(user_E, np.concatenate(chosen), time=np.arange(user_E.size))


@functools.cache
def clustered():
    config = rival_config("bpr", {"protocol.num_negatives": 30, "model.dim": 8})
    return build_protocol(clusters(), config.protocol)


def mean_auc(problem, score):
    ranks = rank_scenario(problem, score, "warm", 0)["sampled-30"]
    return float(per_case(*ranks).mean(axis=0)[METRICS.index("auc")])


def test_it_learns_what_another_library_learns():
    """AUC of the warm targets within noise of `implicit`'s BPR of the same size; both know the clusters."""
    pytest.importorskip(
        "implicit", reason="`implicit` is not installed (the extra named `reference`)"
    )
    from implicit.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix

    protocol = clustered()
    config = rival_config(
        "bpr",
        {"protocol.num_negatives": 30, "model.dim": 8, "train.steps": 60, "bpr.batch": 256}
        | {"bpr.rate": 0.01, "bpr.regularisation": 0.003, "bpr.init_scale": 0.1},
    )
    model = bpr(protocol, config)
    state = jax.jit(model.init)(jax.random.key(0))
    for _ in range(60 // config.train.chunk):
        state, _ = model.phases[0].chunk(state, model.data, jax.random.key(1))
    problem = Problem(config, protocol, model)
    ours = mean_auc(problem, model.bind(state.params, "user"))

    training = training_events(protocol)
    row_F = np.repeat(np.arange(training.user_R.size), np.diff(training.offset_R1))
    shape = training.user_R.size, protocol.num_items
    other = BayesianPersonalizedRanking(
        factors=8, learning_rate=0.05, regularization=0.003, iterations=100, random_state=0
    )
    ones_F = np.ones(row_F.size, np.float32)
    other.fit(csr_matrix((ones_F, (row_F, training.item_F)), shape), show_progress=False)
    score_RI = other.user_factors @ other.item_factors.T
    theirs = mean_auc(problem, lambda batch, steps: score_RI[np.asarray(batch.user_B)])
    best = mean_auc(problem, lambda batch, steps: of_cluster(protocol, batch))
    assert 0.65 < theirs < best + 0.02 and abs(ours - theirs) < 0.03, (ours, theirs, best)


def of_cluster(protocol, batch):
    """1 for items of the part to which most of a user's context belongs: what there is to know."""
    part_I = protocol.item_ids % 3
    votes_BG = (part_I[np.asarray(batch.context_BL)][..., None] == np.arange(3)).sum(axis=1)
    return (part_I[None] == votes_BG.argmax(axis=1)[:, None]).astype(np.float32)


def test_who_starts_where():
    """New users start at the regular ones' mean, or at 0 where the bias alone ranks; regular users at their own factors."""
    protocol = clustered()
    users = training_events(protocol).user_R.size
    drawn = init(jax.random.key(0), users, protocol.num_items, 8, 0.5)
    drawn = {**drawn, "bias": np.arange(protocol.num_items, dtype=np.float32)}
    offset_N1, item_H = np.array([0, 2, 4]), np.array([0, 1, 2, 3], np.int32)
    batch = case_batch(offset_N1, item_H, 5, 2, np.array([-1, 2], np.int32))
    for start, mean_D in (("mean", np.mean(drawn["user"], axis=0)), ("zero", np.zeros(8))):
        config = rival_config("bpr", {"model.dim": 8, "bpr.start": start})
        score_BI = bpr(protocol, config).bind(drawn)(batch, 0)
        for row, p_D in enumerate((mean_D, drawn["user"][2])):
            wanted_I = drawn["item"] @ p_D + drawn["bias"]
            np.testing.assert_allclose(score_BI[row], wanted_I, rtol=1e-5, atol=1e-5)


def test_the_transductive_variant_knows_new_users_contexts_and_no_target():
    protocol = clustered()
    config = rival_config("bpr", {"model.dim": 8, "bpr.transductive": True})
    model = bpr(protocol, config)
    problem = Problem(config, protocol, model)
    assert model.name == "bpr-transductive", "never taken for the other protocol's"
    start_R, count_R = np.asarray(model.data.start_R), np.asarray(model.data.count_R)
    item_F = np.asarray(model.data.item_F)
    for scenario in ("cold", "validation", "warm"):
        cases, batch = scenario_batches(problem, scenario)
        contexts = np.split(cases.item_H, cases.offset_N1[1:-1])
        for row, context_H in zip(batch.user_B, contexts, strict=True):
            rows_events = item_F[start_R[row] : start_R[row] + count_R[row]]
            np.testing.assert_array_equal(rows_events, context_H)
    alone = bpr(protocol, rival_config("bpr", {"model.dim": 8}))
    assert (alone.name, alone.data.count_R.size) == ("bpr", training_events(protocol).user_R.size)
    new_users = sum(
        scenario_batches(problem, name)[1].user_B.size for name in ("cold", "validation")
    )
    assert count_R.size == alone.data.count_R.size + new_users
