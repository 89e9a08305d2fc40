"""Meta-training tasks: what is drawn, from where, how often; and one training chunk on them.

Items of the histories below are `100 * user + position`, so that a draw can be traced to its event.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax import tasks
from metacsr_jax.config import (
    Config,
    LossConfig,
    MetaConfig,
    OptimizerConfig,
    TaskConfig,
    TrainConfig,
)
from metacsr_jax.errors import ProtocolError
from metacsr_jax.meta import make_meta_learner
from metacsr_jax.optimizer import make_optimizer
from metacsr_jax.step import TrainData, init_state, make_chunk
from metacsr_jax.tasks import draw_samples, draw_tasks, draw_users, make_histories, with_negatives

# Events of each user; users 1 and 3 have nothing to predict.
COUNTS = [2, 1, 3, 0, 4, 5, 8, 9, 12, 40]
ELIGIBLE = [user for user, count in enumerate(COUNTS) if count >= 2]
LENGTH = 4
draw_singles = jax.jit(draw_samples, static_argnums=(2, 3, 4))
SMALL = TaskConfig(tasks=200, way=5, support=3, query=5, min_length=2, user_weight="events")
USERS = 1000  # of one draw: tasks * way


@pytest.fixture(scope="module")
def histories():
    offset_R1 = np.concatenate([[0], np.cumsum(COUNTS)]).astype(np.int64)
    item_F = np.concatenate([100 * user + np.arange(count) for user, count in enumerate(COUNTS)])
    return make_histories(offset_R1, item_F)


@pytest.fixture(scope="module")
def drawn_random(histories):
    return by_users(histories, "random")


@pytest.fixture(scope="module")
def drawn_newcomer(histories):
    return by_users(histories, "newcomer")


@pytest.fixture(params=["random", "newcomer"])
def drawn(request):
    return request.getfixturevalue(f"drawn_{request.param}")


def by_users(histories, sampling):
    """(config, support, query, users), samples as [users, K, ...]."""
    config = dataclasses.replace(SMALL, sampling=sampling)
    draw = jax.jit(draw_tasks, static_argnums=(2, 3))
    support, query, support_user, query_user = draw(jax.random.key(0), histories, config, LENGTH)
    assert support.context_KL.shape == (200, 15, LENGTH) and query.context_KL.shape == (
        200,
        25,
        LENGTH,
    )

    def by_user(array, size):
        if sampling == "random":  # all users' first samples come first
            array = np.asarray(array).reshape(200, size, 5, *array.shape[2:]).swapaxes(1, 2)
        return np.asarray(array).reshape(USERS, size, *array.shape[3 - (sampling != "random") :])

    parts = []
    for part, user, size in ((support, support_user, 3), (query, query_user, 5)):
        user_WK = by_user(user, size)
        assert (user_WK == user_WK[:, :1]).all()
        samples = jax.tree.map(lambda a, size=size: by_user(a, size), part._replace(runs=None))
        parts.append((samples, user_WK[:, 0]))
    assert (parts[0][1] == parts[1][1]).all()
    return config, parts[0][0], parts[1][0], parts[0][1]


def real(samples, row):
    """Targets of a user's samples that are not masked out, as positions in the history."""
    return (samples.target_K[row][samples.mask_K[row]] % 100).tolist()


def test_targets_are_distinct_where_the_history_allows(drawn):
    _, support, query, user_W = drawn
    for row, user in enumerate(user_W):
        for_support, for_query = real(support, row), real(query, row)
        places = for_support + for_query
        assert user in ELIGIBLE and set(places) <= set(range(1, COUNTS[user]))
        assert for_query  # nobody leaves the outer loss without a sample
        if COUNTS[user] >= 3:
            assert not set(for_support) & set(for_query)
        if COUNTS[user] - 1 >= 8:
            assert len(set(places)) == 8


def test_contexts_are_the_events_before_the_target(drawn):
    config, support, query, user_W = drawn
    for samples in (support, query):
        for row, k in zip(*np.nonzero(samples.mask_K), strict=True):
            context_L, length = samples.context_KL[row, k], samples.length_K[row, k]
            target = samples.target_K[row, k]
            assert target // 100 == user_W[row]
            assert context_L[LENGTH - length :].tolist() == list(range(target - length, target))
            assert not context_L[: LENGTH - length].any()
            assert min(1 if config.sampling == "newcomer" else 2, target % 100) <= length <= LENGTH


def test_random_tasks_use_every_target_and_every_length(drawn_random):
    _, support, query, user_W = drawn_random
    assert set((support.target_K[user_W == 9] % 100).ravel().tolist()) == set(range(1, 40))
    assert set(query.length_K[query.target_K % 100 >= LENGTH].tolist()) == {2, 3, 4}
    assert support.mask_K.all() and query.mask_K.all()


@pytest.mark.parametrize("most", [10, 4])
def test_lengths_are_uniform_and_spread_over_each_task(monkeypatch, most):
    """Two tasks' worth of users with long histories: every length as often as every other in each, in growing order, user by user,
    and what the runs promise holds."""
    monkeypatch.setattr(tasks, "RUNS", most)
    histories = make_histories(np.array([0, 60, 120]), np.arange(120))
    config = TaskConfig(tasks=400, way=3, support=3, query=6, min_length=2)
    draw = jax.jit(lambda *given: draw_tasks(*given), static_argnums=(2, 3))  # of its own
    for part in draw(jax.random.key(0), histories, config, 10)[:2]:
        seen = np.asarray(part.target_K) % 60 >= 10  # nothing is cut off at the history's start
        length_TK = np.asarray(part.length_K)
        count = length_TK.shape[1]
        for k in range(count):  # sample k's length is floor(2 + 9 (k + U) / count)
            low, high = 2 + 9 * k / count, 2 + 9 * (k + 1) / count
            assert set(length_TK[:, k][seen[:, k]]) == set(range(int(low), -int(-high // 1)))
        share = np.bincount(length_TK[seen], minlength=11)[2:] / seen.sum()
        np.testing.assert_allclose(share, 1 / 9, atol=0.02)
        starts = np.cumsum([0, *(run.count for run in part.runs)])
        assert starts[-1] == count and len(part.runs) == min(most, 9)
        for run, start in zip(part.runs, starts, strict=False):
            assert length_TK[:, start : start + run.count].max() == run.longest


@pytest.mark.parametrize(
    ("way", "shots", "least", "most"), [(1, 1, 1, 1), (1, 2, 2, 10), (3, 1, 9, 4), (15, 5, 2, 10)]
)
def test_runs_cover_the_samples_and_end_with_the_longest(way, shots, least, most):
    config = TaskConfig(tasks=1, way=way, support=shots, query=1, min_length=least)
    histories = make_histories(np.array([0, 60]), np.arange(60))
    runs = draw_tasks(jax.random.key(0), histories, config, most)[0].runs
    assert sum(run.count for run in runs) == way * shots
    assert min(least, most) <= runs[0].longest <= runs[-1].longest == most


def test_short_histories_share_their_targets_out(drawn):
    """Too few targets for 3 + 5 distinct ones: all serve, and over many random draws each takes either side."""
    config, support, query, user_W = drawn
    for user in (2, 4, 5):
        sides = [
            {place for row in np.flatnonzero(user_W == user) for place in real(part, row)}
            for part in (support, query)
        ]
        assert sides[0] | sides[1] == set(range(1, COUNTS[user]))
        assert config.sampling == "newcomer" or sides[0] == sides[1]


def test_newcomer_windows_are_prefixes(drawn_newcomer):
    """Support targets are successive, the query follows, and either no context reaches before the window or all may."""
    _, support, query, user_W = drawn_newcomer
    starts, cut = set(), []
    for row in np.flatnonzero(user_W == 9):
        places = real(support, row) + real(query, row)
        start = places[0] - 1
        assert places == list(range(start + 1, start + 9))
        lengths = [*support.length_K[row], *query.length_K[row]]
        young = lengths == [min(place - start, LENGTH) for place in places]
        assert young or lengths == [min(place, LENGTH) for place in places]
        starts.add(start)
        cut += [young] * (start > 0)
    assert starts == set(range(32))
    assert 0.4 < np.mean(cut) < 0.6
    for row in np.flatnonzero(user_W == 5):  # four targets, shared out as 1 + 3
        assert real(support, row) == [1] and real(query, row) == [2, 3, 4]
    for row in np.flatnonzero(user_W == 0):  # one target: it is for the query
        assert real(support, row) == [] and real(query, row) == [1]
    assert {0, 5, 9} <= set(user_W.tolist())


def test_single_samples_cover_every_event_that_can_be_predicted(histories):
    samples, user_B = draw_singles(jax.random.key(4), histories, SMALL, LENGTH, 4000)
    user_B, place_B = np.asarray(user_B), np.asarray(samples.target_K) % 100
    for user in ELIGIBLE:
        assert set(place_B[user_B == user].tolist()) == set(range(1, COUNTS[user]))
    for context_L, length, target in zip(
        *(np.asarray(a) for a in (samples.context_KL, samples.length_K, samples.target_K)),
        strict=True,
    ):
        assert context_L[LENGTH - length :].tolist() == list(range(target - length, target))
        assert min(2, target % 100) <= length
    assert samples.mask_K.shape == (4000,) and np.asarray(samples.mask_K).all()


def test_early_samples_come_from_the_beginnings_of_histories(histories):
    """A share `early` of windows starts with the history, of single samples within the first L events."""
    early = dataclasses.replace(SMALL, sampling="newcomer", early=1.0)
    samples, user_B = draw_singles(jax.random.key(6), histories, early, LENGTH, 500)
    place_B = np.asarray(samples.target_K)[np.asarray(user_B) == 9] % 100
    assert set(place_B.tolist()) == set(range(1, LENGTH + 1))
    support, _, _, _ = jax.jit(draw_tasks, static_argnums=(2, 3))(
        jax.random.key(6), histories, early, LENGTH
    )
    first_W = np.asarray(support.target_K).reshape(USERS, 3)[:, 0] % 100
    assert set(first_W.tolist()) == {1}


@pytest.mark.parametrize("weight", ["uniform", "events"])
def test_users_are_drawn_uniformly_or_by_their_targets(histories, weight):
    draws = 40_000
    user = np.asarray(draw_users(jax.random.key(5), histories, weight, (200, 200))).ravel()
    count_R = np.bincount(user, minlength=len(COUNTS))
    share_R = np.array(
        [(count - 1 if weight == "events" else 1) * (count >= 2) for count in COUNTS]
    )
    expected_R = draws * share_R / share_R.sum()
    assert not count_R[share_R == 0].any()
    chi = ((count_R - expected_R) ** 2)[share_R > 0] / expected_R[share_R > 0]
    assert chi.sum() < len(ELIGIBLE) - 1 + 5 * (2 * (len(ELIGIBLE) - 1)) ** 0.5


def test_negatives_of_samples_avoid_their_own_users_history():
    """User 0 did items 0..4, user 1 did 5..9, of ten: each one's negatives are the other's items."""
    histories = make_histories(np.array([0, 5, 10]), np.arange(10))
    samples, user_B = draw_singles(jax.random.key(0), histories, SMALL, LENGTH, 50)
    tasks = jax.tree.map(lambda a: a.reshape(5, 10, *a.shape[1:]), samples)
    user_TK = user_B.reshape(5, 10)
    negative = np.asarray(
        with_negatives(jax.random.key(1), tasks, user_TK, histories.known, 10, 7).negative_KN
    )
    assert negative.shape == (5, 10, 7)
    assert (negative // 5 == 1 - np.asarray(user_TK)[..., None]).all()
    assert set(np.asarray(user_B).tolist()) == {0, 1}


def test_a_log_without_anything_to_predict_is_refused():
    with pytest.raises(ProtocolError, match="no regular user has two"):
        make_histories(np.array([0, 1, 1, 2]), np.array([3, 4]))


@pytest.mark.parametrize("pretrain", [False, True], ids=["tasks", "samples"])
def test_a_chunk_uses_no_key_twice_and_depends_on_seed_and_step_alone(tiny, pretrain):
    model = tiny()
    config = Config(
        model=dataclasses.replace(model.config.model, hidden=4, dropout=0.5, input_dropout=0.1),
        tasks=TaskConfig(tasks=2, way=2, support=2, query=3, pretrain_batch=8),
        loss=LossConfig(negatives=2),
        meta=MetaConfig(inner_rate=0.1),
        optimizer=OptimizerConfig(warmup=0),
        train=TrainConfig(pretrain_steps=2, steps=2, chunk=2),
    )
    network = tiny(model=dataclasses.asdict(config.model)).network
    learner = make_meta_learner(network, config.loss, config.meta)
    optimizer = make_optimizer(config.optimizer, config.train)
    data = TrainData(make_histories(np.array([0, 3, 6, 7, 12]), np.arange(12) % 7), model.inputs)
    data = jax.tree.map(jnp.asarray, data)
    chunk = make_chunk(network, learner, optimizer, config, model.num_items, pretrain=pretrain)

    start = init_state(network, learner, optimizer, data.inputs, jax.random.key(7))

    def fresh(step=0):  # a copy, since the chunk donates its state
        return jax.tree.map(jnp.copy, start)._replace(step=jnp.int32(step))

    with jax.debug_key_reuse(
        True
    ):  # throughout: the setting is part of what a program is compiled for
        state, report = chunk(fresh(), data, jax.random.key(0))
        again, same = chunk(fresh(), data, jax.random.key(0))
        _, other = chunk(fresh(step=2), data, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, (state, report), (again, same))
    assert state.step == 2 and report.loss.shape == (2,)
    assert all(np.isfinite(field).all() for field in report)
    assert (np.asarray(report.loss) != np.asarray(other.loss)).all()
    assert report.loss[0] != report.loss[1]
    assert (np.asarray(report.shift) > 0).all() != pretrain
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, state.params, start.params)
    assert moved["representer"]["item_embedding"] and moved["encoder"]["readout"]["W6"]["kernel"]
