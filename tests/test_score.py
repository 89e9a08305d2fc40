"""Scores of unseen users: one `adapt`, by user or by group; batches, padding and jit do not matter."""

import dataclasses

import jax
import numpy as np
import pytest

from metacsr_jax.cases import case_batch, pad_batch
from metacsr_jax.config import EvaluationConfig
from metacsr_jax.score import make_score, support_samples

HISTORIES = [[1, 2, 3, 4, 5], [0, 6], [7], [], [5, 3, 5, 1], [2, 0, 4, 6, 1, 3]]
GROUP = 4  # of six users: the last group is the smaller one


def batch_of(histories):
    offset_N1 = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    items = np.array([item for h in histories for item in h], np.int32)
    return case_batch(offset_N1, items, max_length=4, max_support=3)


def scorer(model, adapt_per="user"):
    """(batch, steps) -> [B, I], and the configuration it was built with."""
    config = dataclasses.replace(model.config, evaluation=EvaluationConfig(group_size=GROUP))
    score = make_score(model.network, model.learner, config, adapt_per)
    table = jax.jit(model.network.represent)(model.params["representer"], model.inputs)
    return lambda batch, steps: score(model.params, table, batch, steps)


@pytest.fixture(scope="module")
def scored(tiny):
    """A model, its scorer, a batch, and scores after 0 and 2 steps."""
    model = tiny(
        seed=4, model={"output_relu": False, "distance": "linear"}, meta={"inner_rate": 0.05}
    )
    score, batch = scorer(model), batch_of(HISTORIES)
    return model, score, batch, {steps: np.asarray(score(batch, steps)) for steps in (0, 2)}


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
def test_order_of_users_and_size_of_the_batch_do_not_matter(scored, steps):
    _, score, batch, expected = scored
    order = np.array([4, 0, 3, 5, 1, 2])
    close(score(jax.tree.map(lambda a: a[order], batch), steps), expected[steps][order])
    close(score(pad_batch(batch, 9), steps)[:6], expected[steps])
    for row in (0, 3):
        close(score(batch_of([HISTORIES[row]]), steps), expected[steps][row : row + 1])


@pytest.mark.parametrize("steps", [0, 2])
def test_what_lies_under_the_padding_does_not_matter(scored, steps):
    _, score, batch, expected = scored
    generator = np.random.default_rng(0)

    def spoil(array, length):
        size = array.shape[-1]
        real = np.arange(size) >= size - length[..., None]
        return np.where(real, array, generator.integers(0, 8, array.shape)).astype(np.int32)

    spoilt = batch._replace(
        context_BL=spoil(batch.context_BL, batch.length_B),
        history_BH=spoil(batch.history_BH, batch.events_B),
        support_context_BKL=spoil(batch.support_context_BKL, batch.support_length_BK),
        support_target_BK=np.where(batch.support_mask_BK, batch.support_target_BK, 5).astype(
            np.int32
        ),
    )
    assert (spoilt.support_context_BKL != batch.support_context_BKL).any()
    np.testing.assert_array_equal(score(spoilt, steps), expected[steps])


def test_without_steps_the_plain_model_scores(scored):
    model, _, batch, expected = scored
    theta_2 = model.params["encoder"]
    table = model.network.represent(model.params["representer"], model.inputs)
    s_BD = model.network.encode(theta_2, table, batch.context_BL, batch.length_B)
    close(model.network.score_catalogue(theta_2, table, s_BD), expected[0])


def test_users_adapt_to_their_own_support_and_none_without_one(scored):
    model, _, batch, expected = scored
    table = model.network.represent(model.params["representer"], model.inputs)
    support = support_samples(batch, model.config, model.num_items)
    for row in range(6):
        own = jax.tree.map(lambda a, row=row: a[row], support)
        theta_2 = model.learner.personalise(model.params, table, own, 2)
        s_1D = model.network.encode(theta_2, table, batch.context_BL[[row]], batch.length_B[[row]])
        close(model.network.score_catalogue(theta_2, table, s_1D)[0], expected[2][row])
    adapted = np.abs(expected[2] - expected[0]).max(axis=1)
    assert (adapted[[0, 1, 4, 5]] > 1e-3).all()
    np.testing.assert_array_equal(expected[2][[2, 3]], expected[0][[2, 3]])  # one event, none


@pytest.mark.parametrize("adapt_per", ["user", "group"])
def test_without_any_support_nobody_adapts(tiny, adapt_per):
    """`protocol.max_support=0` is a support of no samples, and not an error."""
    model = tiny()
    offset_N1, items = np.array([0, 3, 5]), np.array([1, 2, 3, 4, 5], np.int32)
    batch = case_batch(offset_N1, items, max_length=4, max_support=0)
    table = model.network.represent(model.params["representer"], model.inputs)
    score = make_score(model.network, model.learner, model.config, adapt_per)
    still, adapted = (score(model.params, table, batch, steps) for steps in (0, 2))
    np.testing.assert_array_equal(adapted, still)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_groups_pool_their_support(tiny, loss):
    model = tiny(
        seed=4,
        model={"output_relu": False},
        loss={"name": loss},
        meta={"inner_reduction": "mean", "inner_rate": 0.5},
    )
    batch = batch_of(HISTORIES)
    grouped = np.asarray(scorer(model, "group")(batch, 1))
    table = model.network.represent(model.params["representer"], model.inputs)
    support = support_samples(batch, model.config, model.num_items)
    for users in (range(0, 4), range(4, 6)):
        pooled = jax.tree.map(
            lambda a, users=users: np.concatenate([a[user] for user in users]),
            support._replace(history=None),
        )
        theta_2 = model.learner.personalise(model.params, table, pooled, 1)
        rows = list(users)
        s_GD = model.network.encode(theta_2, table, batch.context_BL[rows], batch.length_B[rows])
        close(grouped[rows], model.network.score_catalogue(theta_2, table, s_GD))
    alone = np.asarray(scorer(model)(batch, 1))
    assert np.abs(grouped - alone).max() > 1e-3
    close(scorer(model, "group")(batch, 0), scorer(model)(batch, 0))


def test_support_negatives_avoid_known_items_and_belong_to_the_history(tiny):
    model = tiny(loss={"negatives": 400})
    batch = batch_of(HISTORIES)
    negative = np.asarray(support_samples(batch, model.config, model.num_items).negative_KN)
    assert negative.shape == (6, 3, 400)
    for row, history in enumerate(HISTORIES):
        unknown = set(range(model.num_items)) - set(history)
        for drawn in negative[row]:
            count_I = np.bincount(drawn, minlength=model.num_items)
            assert set(np.flatnonzero(count_I).tolist()) == unknown
            expected, freedom = 400 / len(unknown), len(unknown) - 1
            chi = ((count_I[sorted(unknown)] - expected) ** 2 / expected).sum()
            assert chi < freedom + 5 * (2 * max(freedom, 1)) ** 0.5
    moved = support_samples(batch_of([[3], *HISTORIES[::-1]]), model.config, model.num_items)
    np.testing.assert_array_equal(np.asarray(moved.negative_KN)[:0:-1], negative)
    same = batch_of([HISTORIES[0], HISTORIES[0][::-1]])
    one, other = np.asarray(support_samples(same, model.config, model.num_items).negative_KN)
    assert (one != other).any()  # another order is another history


def test_the_catalogue_loss_needs_no_negatives(tiny):
    model = tiny(loss={"name": "softmax"})
    assert support_samples(batch_of(HISTORIES), model.config, model.num_items).negative_KN is None


def test_jit_changes_nothing(scored):
    _, score, _, expected = scored
    with jax.disable_jit():
        close(score(batch_of(HISTORIES[:2]), 2), expected[2][:2])
