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
from metacsr_jax.config import ProtocolConfig
from metacsr_jax.protocol import NEW, REGULAR, VALIDATION, Protocol


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


def fit_and_score(name: str, protocol: Protocol, histories: list[list[int]], max_length: int = 10):
    model = BASELINES[name]
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


@settings(max_examples=60, deadline=None)
@given(
    regular=st.lists(events, min_size=1, max_size=6),
    served=st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=4),
    max_length=st.integers(1, 12),
)
def test_markov_equals_a_dense_recomputation(regular, served, max_length):
    count_II, popularity_I = np.zeros((7, 7)), np.zeros(7)
    for history in regular:
        training = history[:-1]
        for place, item in enumerate(training):
            popularity_I[item] += 1
            for lag in range(1, min(5, place) + 1):
                count_II[training[place - lag], item] += 1 / lag
    weight_II = count_II / (np.sqrt(np.outer(popularity_I, popularity_I)) + 10)
    expected_BI = np.zeros((len(served), 7))
    for user, history in enumerate(served):
        for back, item in enumerate(reversed(history[-max_length:])):
            expected_BI[user] += 0.8**back * weight_II[item]
    score_BI = fit_and_score("markov", make_protocol(regular, 7), served, max_length)
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
    model = BASELINES[name]
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


def test_markov_never_holds_a_square_of_the_catalogue():
    items, rng = 50_000, np.random.default_rng(0)
    protocol = make_protocol(rng.integers(items, size=(400, 50)).tolist(), items)
    model = BASELINES["markov"]
    tracemalloc.start()
    state = model.fit(protocol, None)
    score_BI = model.score(state, make_batch(rng.integers(items, size=(16, 10)).tolist()), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score_BI.shape == (16, items)
    assert peak < 64 * 2**20  # the square would take 10 GB
