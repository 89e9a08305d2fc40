"""Item-kNN and EASE: dense closed forms from the formulas, and small cases by hand.

Dimension key: B users, R regular users, I items, M items that take part.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_baselines_counting import fit_and_score, make_protocol

from metacsr_jax.config import Config, EASEConfig, ItemKNNConfig

ITEMS = 8  # the last is never touched
histories = st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=9), min_size=1, max_size=8)
served_histories = st.lists(st.lists(st.integers(0, 7), max_size=9), min_size=1, max_size=4)


def bag(histories: list[list[int]], items: int = ITEMS) -> np.ndarray:
    """Which user has which item, [B, I]."""
    bag_BI = np.zeros((len(histories), items))
    for user, history in enumerate(histories):
        bag_BI[user, history] = 1
    return bag_BI


def training_bag(regular: list[list[int]], items: int = ITEMS) -> np.ndarray:
    """The same of regular users, whose last events are held out."""
    return bag([history[:-1] for history in regular], items)


def first(places: int, value_I: np.ndarray) -> list[int]:
    """Codes of the greatest values, ties by code."""
    return sorted(range(len(value_I)), key=lambda item: (-value_I[item], item))[:places]


def closed_form(bag_RM: np.ndarray, regularisation: float) -> np.ndarray:
    """Weights of EASE [M, M]: -P_ij / P_jj, and 0 on the diagonal."""
    inverse_MM = np.linalg.inv(bag_RM.T @ bag_RM + regularisation * np.eye(bag_RM.shape[1]))
    return -inverse_MM / np.diag(inverse_MM) * (1 - np.eye(len(inverse_MM)))


@settings(max_examples=100, deadline=None)
@given(
    regular=histories,
    served=served_histories,
    max_length=st.integers(1, 10),
    neighbours=st.integers(0, 8),
    shrink=st.sampled_from([0.0, 0.5, 20.0]),
)
def test_itemknn_equals_a_dense_recomputation(regular, served, max_length, neighbours, shrink):
    bag_RI = training_bag(regular)
    both_II, size_I = bag_RI.T @ bag_RI, bag_RI.sum(axis=0)
    weight_II = np.zeros((ITEMS, ITEMS))
    for i, j in zip(*np.nonzero(both_II), strict=True):
        if i != j:
            weight_II[i, j] = both_II[i, j] / (math.sqrt(size_I[i] * size_I[j]) + shrink)
    if neighbours:
        for i, weight_I in enumerate(weight_II):
            weight_II[i, first(ITEMS, weight_I)[neighbours:]] = 0
    config = Config(itemknn=ItemKNNConfig(neighbours, shrink))
    protocol = make_protocol(regular, ITEMS)
    score_BI = fit_and_score("itemknn", protocol, served, max_length, config)
    expected_BI = bag([history[-max_length:] for history in served]) @ weight_II
    np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-6, atol=1e-9)


def test_itemknn_keeps_the_nearest_of_each_item_and_of_equals_the_smaller_code():
    regular = [[0, 1, 5], [0, 2, 5], [0, 3, 5], [3, 4, 5], [3, 4, 5]]
    protocol = make_protocol(regular, 6)
    # Users who touched 0 to 4: 3, 1, 1, 3, 2. Both 1 and 2 are as near to 0, and 4 is nearer to 3 than 0 is.
    nearest_II = np.zeros((6, 6))
    nearest_II[0, 1] = nearest_II[1, 0] = nearest_II[2, 0] = 1 / math.sqrt(3 * 1)
    nearest_II[3, 4] = nearest_II[4, 3] = 2 / math.sqrt(3 * 2)
    config = Config(itemknn=ItemKNNConfig(neighbours=1))
    served = [[item] for item in range(6)]
    score_BI = fit_and_score("itemknn", protocol, served, config=config)
    np.testing.assert_allclose(score_BI, nearest_II, rtol=1e-6)
    # With a second neighbour 0 has both equals, and 3 has 0.
    nearest_II[0, 2] = 1 / math.sqrt(3 * 1)
    nearest_II[3, 0] = 1 / math.sqrt(3 * 3)
    config = Config(itemknn=ItemKNNConfig(neighbours=2))
    score_BI = fit_and_score("itemknn", protocol, served, config=config)
    np.testing.assert_allclose(score_BI, nearest_II, rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    regular=histories,
    served=served_histories,
    max_length=st.integers(1, 10),
    regularisation=st.sampled_from([0.5, 3.0, 500.0]),
    places=st.integers(1, ITEMS + 1),
)
def test_ease_equals_the_closed_form_of_the_items_that_take_part(
    regular, served, max_length, regularisation, places
):
    bag_RI = training_bag(regular)
    item_M = first(places, bag_RI.sum(axis=0))
    weight_II = np.zeros((ITEMS, ITEMS))
    weight_II[np.ix_(item_M, item_M)] = closed_form(bag_RI[:, item_M], regularisation)
    config = Config(ease=EASEConfig(regularisation, places))
    protocol = make_protocol(regular, ITEMS)
    score_BI = fit_and_score("ease", protocol, served, max_length, config)
    expected_BI = bag([history[-max_length:] for history in served]) @ weight_II
    np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-5, atol=1e-6)
    outside_I = np.setdiff1d(np.arange(ITEMS), item_M)
    assert (score_BI[:, outside_I] == 0).all()


def test_ease_is_the_ridge_regression_of_each_item_on_the_others():
    regular = np.random.default_rng(0).integers(ITEMS, size=(30, 5)).tolist()
    bag_RI, regularisation = training_bag(regular), 2.0
    weight_II = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = [other for other in range(ITEMS) if other != item]
        gram = bag_RI[:, others].T @ bag_RI[:, others] + regularisation * np.eye(ITEMS - 1)
        weight_II[others, item] = np.linalg.solve(gram, bag_RI[:, others].T @ bag_RI[:, item])
    score_II = fit_and_score(
        "ease",
        make_protocol(regular, ITEMS),
        [[item] for item in range(ITEMS)],
        config=Config(ease=EASEConfig(regularisation)),
    )
    np.testing.assert_allclose(score_II, weight_II, rtol=1e-5, atol=1e-6)


def test_ease_of_two_items_by_hand():
    # Two users have both items, one has the first alone: the gram matrix plus 1 is [[4, 2], [2, 3]].
    protocol = make_protocol([[0, 1, 2], [1, 0, 2], [0, 2]], 3)
    config = Config(ease=EASEConfig(regularisation=1.0))
    score_BI = fit_and_score("ease", protocol, [[0], [1], [2], [0, 1]], config=config)
    to_1, to_0 = 2 / 4, 2 / 3
    expected_BI = [[0, to_1, 0], [to_0, 0, 0], [0, 0, 0], [to_0, to_1, 0]]
    np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-6)


def test_ease_leaves_the_rarer_items_out_and_of_equals_the_greater_code():
    # Users who touched 0 to 4: 1, 2, 3, 2, 2; events: 5, 2, 3, 2, 2. Of three, 2 and the first two with two users.
    regular = [[2, 1, 3, 0], [2, 1, 4, 0], [2, 3, 4, 0], [0, 0, 0, 0, 0, 1]]
    protocol = make_protocol(regular, 5)
    config = Config(ease=EASEConfig(regularisation=1.0, items=3))
    score_BI = fit_and_score("ease", protocol, [[2], [0, 2, 4], [0, 4]], config=config)
    weight_MM = closed_form(training_bag(regular, 5)[:, [1, 2, 3]], 1.0)
    expected_I = [0, weight_MM[1, 0], 0, weight_MM[1, 2], 0]
    np.testing.assert_allclose(score_BI, [expected_I, expected_I, np.zeros(5)], rtol=1e-5)
    np.testing.assert_array_equal(score_BI[:, [0, 4]], 0)


@pytest.mark.parametrize("name", ["itemknn", "ease"])
def test_an_item_that_comes_several_times_counts_once(name):
    once = [[0, 1, 2, 3], [1, 2, 0], [2, 3, 4, 0]]
    twice = [[0, 0, 1, 2, 0, 3], [1, 2, 1, 2, 2, 0], [2, 3, 4, 4, 0]]
    served = [[0, 1], [2, 0, 3], [4]]
    again = [[1, 0, 0, 1], [2, 2, 0, 2, 0, 3, 3], [4, 4, 4]]
    expected_BI = fit_and_score(name, make_protocol(once, 5), served)
    assert expected_BI.any(axis=1).all()
    for training, contexts in ((once, again), (twice, served), (twice, again)):
        score_BI = fit_and_score(name, make_protocol(training, 5), contexts)
        np.testing.assert_allclose(score_BI, expected_BI, rtol=1e-6)
