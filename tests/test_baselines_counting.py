"""Models that count: expected values by hand, and nothing held out is counted.

Dimension key: B users, L context, I items, R regular users.
"""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.baselines import BASELINES
from metacsr_jax.cases import case_batch
from metacsr_jax.config import Config, EASEConfig, MarkovConfig, ProtocolConfig
from metacsr_jax.protocol import NEW, REGULAR, VALIDATION, Protocol

DEFAULT = Config()


def make_protocol(
    histories: list[list[int]], items: int, roles: list[int] | None = None
) -> Protocol:
    """A protocol of these users; the last event of each is held out."""
    return Protocol(
        config=ProtocolConfig(),
        name="by hand",
        item_ids=np.arange(items),
        user_ids=np.arange(len(histories)),
        role_U=np.array(roles or [REGULAR] * len(histories), np.uint8),
        offset_U1=np.cumsum([0, *map(len, histories)]),
        item_E=np.array([item for history in histories for item in history], np.int32),
        time_E=np.zeros(sum(map(len, histories)), np.int64),
        negative_NC={},
        mask_seen=True,
        item_features=None,
        user_features=None,
        manifest={},
    )


def make_batch(histories: list[list[int]], max_length: int = 10):
    """Contexts of these users."""
    return case_batch(
        np.cumsum([0, *map(len, histories)]),
        np.array([item for history in histories for item in history], np.int32),
        max_length,
        max_support=3,
    )


def fit_and_score(
    name: str,
    protocol: Protocol,
    histories: list[list[int]],
    max_length: int = 10,
    config: Config = DEFAULT,
):
    model = BASELINES[name](config)
    return model.score(model.fit(protocol, None), make_batch(histories, max_length), 0)


def weight(count: float, popularity: int, other: int) -> float:
    """A Markov weight."""
    return count / (math.sqrt(popularity * other) + 10)


def test_popular_counts_training_events_of_regular_users_only():
    protocol = make_protocol(
        [[0, 1, 0, 3], [1, 0, 2], [3, 3, 3], [2, 2, 2]], 5, [REGULAR, REGULAR, NEW, VALIDATION]
    )
    score_BI = fit_and_score("popular", protocol, [[4], []])
    np.testing.assert_array_equal(score_BI, [[3, 2, 0, 0, 0]] * 2)


@pytest.mark.parametrize(
    ("keep_new", "count_I"),
    [(1, [1, 0, 1, 0, 1]), (2, [1, 1, 2, 0, 1]), (3, [1, 1, 4, 0, 1]), (10, [1, 1, 4, 1, 1])],
)
def test_popular_first_counts_what_is_kept_of_a_new_user(keep_new, count_I):
    # Training events: 0 1 2 3, of the next user 4 alone, and 2 2 2.
    histories = [[3, 3, 3], [0, 1, 2, 3, 3], [4, 0], [3, 3, 3], [2, 2, 2, 1]]
    protocol = make_protocol(histories, 5, [NEW, REGULAR, REGULAR, VALIDATION, REGULAR])
    config = Config(protocol=ProtocolConfig(keep_new=keep_new))
    score_BI = fit_and_score("popular-first", protocol, [[4], []], config=config)
    np.testing.assert_array_equal(score_BI, [count_I] * 2)


def test_repeat_puts_the_latest_first_and_the_most_popular_after_the_context():
    protocol = make_protocol([[0, 0, 0, 1, 1, 2, 4], [0, 4, 3]], 6)
    popular_I = np.array([4, 2, 1, 0, 1, 0]) / (4 + 1)
    served = [[2, 5, 2], [3, 1], [5, 3, 2, 1], [0, 5, 3, 2, 1], [0], []]
    # The position in a context of four, from 1 on.
    latest = [{2: 4, 5: 3}, {1: 4, 3: 3}, *[{1: 4, 2: 3, 3: 2, 5: 1}] * 2, {0: 4}, {}]
    order = [[2, 5, 0, 1, 4, 3], [1, 3, 0, 2, 4, 5], *[[1, 2, 3, 5, 0, 4]] * 2]
    order += [[0, 1, 2, 4, 3, 5]] * 2
    score_BI = fit_and_score("repeat", protocol, served, max_length=4)
    expected_BI = np.tile(popular_I, (len(served), 1))
    for expected_I, score in zip(expected_BI, latest, strict=True):
        expected_I[list(score)] = list(score.values())
    np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-6)
    np.testing.assert_array_equal(np.argsort(-score_BI, axis=1, kind="stable"), order)


def test_markov_is_what_the_definition_says():
    protocol = make_protocol([[0, 1, 2, 3], [0, 1, 3]], 4)
    # Training events: 0 1 2 and 0 1. Items 0, 1 and 2 have 2, 2 and 1 of them.
    from_0 = np.array([0, weight(2, 2, 2), weight(1 / 2, 2, 1), 0])
    from_1 = np.array([0, 0, weight(1, 2, 1), 0])
    score_BI = fit_and_score("markov", protocol, [[0], [0, 1], [1, 3, 0], [2], []])
    expected_BI = [from_0, 0.8 * from_0 + from_1, 0.64 * from_1 + from_0, 0 * from_0, 0 * from_0]
    np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-6)


def test_markov_counts_up_to_five_events_apart():
    protocol = make_protocol([[0, 1, 2, 3, 4, 5, 6, 7]], 8)
    expected_I = [0, *(weight(1 / lag, 1, 1) for lag in range(1, 6)), 0, 0]
    np.testing.assert_allclose(fit_and_score("markov", protocol, [[0]])[0], expected_I, rtol=1e-6)


def test_markov_counts_repeats_of_an_item_and_no_step_from_user_to_user():
    protocol = make_protocol([[0, 0, 0, 3], [1, 2]], 4)
    expected_I = [weight(2 + 1 / 2, 3, 3), 0, 0, 0]
    np.testing.assert_allclose(fit_and_score("markov", protocol, [[0]])[0], expected_I, rtol=1e-6)


def test_markov_without_any_pair_scores_zero():
    np.testing.assert_array_equal(
        fit_and_score("markov", make_protocol([[0, 1], [1, 0]], 2), [[0, 1]]), [[0.0, 0.0]]
    )


events = st.lists(st.integers(0, 6), min_size=2, max_size=12)


some_markov = st.builds(
    MarkovConfig,
    lags=st.integers(1, 12),
    shrink=st.sampled_from([0.0, 0.5, 10.0, 100.0]),
    decay=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)


@pytest.mark.parametrize("setting", [st.just(MarkovConfig(5, 10.0, 0.8)), some_markov])
@settings(max_examples=60, deadline=None)
@given(
    regular=st.lists(events, min_size=1, max_size=6),
    served=st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=4),
    max_length=st.integers(1, 12),
    data=st.data(),
)
def test_markov_equals_a_dense_recomputation(setting, regular, served, max_length, data):
    own = data.draw(setting)
    count_II, popularity_I = np.zeros((7, 7)), np.zeros(7)
    for history in regular:
        training = history[:-1]
        for place, item in enumerate(training):
            popularity_I[item] += 1
            for lag in range(1, min(own.lags, place) + 1):
                count_II[training[place - lag], item] += 1 / lag
    root_II = np.sqrt(np.outer(popularity_I, popularity_I))
    weight_II = np.where(count_II > 0, count_II / np.maximum(root_II + own.shrink, 1e-9), 0)
    expected_BI = np.zeros((len(served), 7))
    for user, history in enumerate(served):
        for back, item in enumerate(reversed(history[-max_length:])):
            expected_BI[user] += own.decay**back * weight_II[item]
    protocol, config = make_protocol(regular, 7), Config(markov=own)
    score_BI = fit_and_score("markov", protocol, served, max_length, config)
    np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_held_out_events_change_nothing(name):
    roles = [REGULAR, REGULAR, NEW, VALIDATION]
    one = make_protocol([[0, 1, 2, 3], [2, 3, 4], [4, 0, 1], [4, 2, 1]], 5, roles)
    other = make_protocol([[0, 1, 2, 4], [2, 3, 0], [0, 4, 4], [1, 1, 1]], 5, roles)
    served = [[0, 1], [2, 3]]
    np.testing.assert_array_equal(
        fit_and_score(name, one, served), fit_and_score(name, other, served)
    )


@pytest.mark.parametrize("name", BASELINES)
def test_scores_are_float32_and_do_not_depend_on_the_batch_or_the_steps(name):
    protocol = make_protocol([[0, 1, 2, 3, 1, 4], [2, 3, 4, 0, 2]], 6)
    served = [[0, 1, 2], [3], [], [4, 4, 1, 0]]
    model = BASELINES[name](DEFAULT)
    state = model.fit(protocol, None)
    together_BI = np.asarray(model.score(state, make_batch(served), 0))
    assert together_BI.dtype == np.float32
    assert together_BI.shape == (4, 6)
    assert np.isfinite(together_BI).all()
    for row_I, history in zip(together_BI, served, strict=True):
        for steps in (0, 5):
            np.testing.assert_array_equal(
                model.score(state, make_batch([history]), steps)[0], row_I
            )


def test_random_ranks_by_chance():
    users, items = 2000, 101
    protocol = make_protocol([[0, 1]], items)
    served = [[user % items, user // items] for user in range(users)]
    score_BI = fit_and_score("random", protocol, served)
    assert score_BI.min() >= 0
    assert score_BI.max() < 1
    # The target is item 0, the negatives are the hundred others.
    rank_B = (score_BI[:, 1:] > score_BI[:, :1]).sum(axis=1)
    harmonic = sum(1 / rank for rank in range(1, items + 1)) / items  # .0515
    error = math.sqrt(1 / 12 / users)
    assert abs((1 - rank_B / 100).mean() - 0.5) < 4 * error
    assert abs((1 / (rank_B + 1)).mean() - harmonic) < 4 * (1 / (rank_B + 1)).std() / math.sqrt(
        users
    )
    # Neither users nor items share an order.
    assert abs(np.corrcoef(score_BI[:-1].ravel(), score_BI[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(score_BI[:, :-1].ravel(), score_BI[:, 1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("name", BASELINES)
def test_an_empty_context_is_no_context_of_the_item_that_pads_it(name):
    protocol = make_protocol([[0, 1, 2, 3], [3, 0, 4], [0, 3, 1, 2]], 6)
    popular_I = np.array([3, 2, 1, 2, 0, 0])
    score_BI = fit_and_score(name, protocol, [[], [0], []])
    np.testing.assert_array_equal(score_BI[0], score_BI[2])
    if name == "random":
        assert np.unique(score_BI[0]).size == 6
    elif name == "repeat":
        np.testing.assert_allclose(score_BI[0], popular_I / (3 + 1), rtol=1e-6)
    elif name in ("popular", "popular-first"):
        np.testing.assert_array_equal(score_BI[0], popular_I)
    else:
        assert score_BI[1].any()
        np.testing.assert_array_equal(score_BI[0], np.zeros(6))


@pytest.mark.parametrize("name", ["markov", "itemknn", "ease"])
def test_no_model_of_pairs_holds_a_square_of_the_catalogue(name):
    items, rng = 50_000, np.random.default_rng(0)
    protocol = make_protocol(rng.integers(items, size=(400, 50)).tolist(), items)
    model = BASELINES[name](Config(ease=EASEConfig(items=500)))
    tracemalloc.start()
    state = model.fit(protocol, None)
    score_BI = model.score(state, make_batch(rng.integers(items, size=(16, 10)).tolist()), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score_BI.shape == (16, items)
    assert peak < 128 * 2**20  # the square would take 10 GB
