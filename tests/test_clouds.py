"""Figures of merit: distances of clouds, overlap of similarities, moves."""

import numpy as np
import pytest

from metacsr_jax.analysis.clouds import (
    Statistic,
    binned,
    energy_distance,
    mean_statistic,
    overlap,
    relative_move,
)


def cloud(seed, count=200, at=0.0):
    return np.random.default_rng(seed).standard_normal((count, 5)) + at


def test_energy_distance_of_points_on_a_line_is_its_formula():
    one_ND, other_MD = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])
    across = (5 + 9 + 3 + 7) / 4
    inside = 2 * 2 / 4 + 2 * 4 / 4  # each pair of unlike members twice, alike ones have none
    assert energy_distance(one_ND, other_MD).value == pytest.approx(
        (2 * across - inside) / (2 * across)
    )


def test_energy_distance_tells_clouds_apart_and_nothing_else():
    same = energy_distance(cloud(0), cloud(1))
    apart = energy_distance(cloud(0), cloud(1, at=1.0))
    far = energy_distance(cloud(0), cloud(1, at=1000.0))
    assert 0 <= same.value < 0.02 < apart.value < far.value <= 1
    assert same.interval()[1] < same.value < same.interval()[2]
    turn = np.linalg.qr(cloud(3, 5))[0]
    moved = energy_distance(7 * cloud(0) @ turn + 3, 7 * cloud(1, at=1.0) @ turn + 3)
    assert moved.value == pytest.approx(apart.value)
    assert energy_distance(np.zeros((4, 2)), np.zeros((3, 2))).value == 0
    assert energy_distance(np.zeros((4, 2)), np.ones((3, 2))).value == pytest.approx(1)


def test_differences_are_paired_by_their_resamples():
    clouds = [energy_distance(cloud(0), cloud(1, at=at)) for at in (0.5, 1.0)]
    itself = clouds[0].minus(energy_distance(cloud(0), cloud(1, at=0.5)))
    assert itself.value == 0 and np.all(itself.resampled_R == 0)
    value, low, high = clouds[1].minus(clouds[0]).interval()
    assert 0 < low < value < high


def test_overlap_is_the_area_under_both_histograms():
    positive_N = np.array([0.0, 0.0, 1.0, 60.0])
    negative_NC = np.array([[0.0, 60.0]] * 4)
    share_NB = binned(positive_N, negative_NC)
    positive_B, negative_B = np.split(share_NB.mean(0), 2)
    np.testing.assert_allclose(positive_B[positive_B > 0], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(negative_B[negative_B > 0], [0.5, 0.5])
    assert np.minimum(positive_B, negative_B).sum() == pytest.approx(0.5 + 0.25)
    apart = overlap(np.zeros(20), np.ones((20, 3)))
    assert apart.value == 0 and apart.interval() == (0, 0, 0)
    assert overlap(np.full(20, 2.0), np.full((20, 3), 2.0)).value == pytest.approx(1)


@pytest.mark.parametrize(("users", "short"), [(100, 0.09), (400, 0.045)])
def test_alike_similarities_overlap_nearly_wholly_however_few_users_there_are(users, short):
    rng = np.random.default_rng(users)
    found = [
        overlap(rng.standard_normal(users), rng.standard_normal((users, 30)), 200).value
        for _ in range(20)
    ]
    assert 1 - short <= np.mean(found) <= 1


def test_two_models_that_separate_alike_do_not_differ_in_overlap():
    """The control: 95 % of the intervals of the difference hold 0."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(60):
        areas = [
            overlap(rng.standard_normal(150) + 0.5, rng.standard_normal((150, 20)), 300)
            for _ in range(2)
        ]
        _, low, high = areas[0].minus(areas[1]).interval()
        inside += low <= 0 <= high
    assert inside >= 52  # two deviations below 57


def test_the_shape_of_the_similarities_does_not_matter():
    rng = np.random.default_rng(0)
    positive_N, negative_NC = rng.standard_normal(200) + 0.3, rng.standard_normal((200, 30))
    one, other = (overlap(of(positive_N), of(negative_NC)) for of in (np.sinh, lambda x: x**3))
    assert one.value == pytest.approx(other.value)
    assert np.allclose(one.minus(other).resampled_R, 0)


def test_intervals_of_resampled_statistics_cover_the_truth():
    """A difference of .3 deviations between 80 users of either sort: 93 to 97 % of 500 intervals hold it."""
    rng, truth, inside = np.random.default_rng(0), 0.3, 0
    for number in range(500):
        one, other = rng.standard_normal(80) + truth, rng.standard_normal(80)
        means = [
            mean_statistic(of, 400, seed=2 * number + place)
            for place, of in enumerate((one, other))
        ]
        _, low, high = means[0].minus(means[1]).interval()
        inside += low <= truth <= high
    assert 0.93 <= inside / 500 <= 0.97


def test_moves_are_in_units_of_the_spread():
    before_ND = np.array([[0.0, 0.0], [0.0, 6.0]])  # 3 from their mean, both
    np.testing.assert_allclose(relative_move(before_ND, before_ND + np.array([1.5, 0.0])), 1.5 / 3)
    assert np.all(relative_move(before_ND, before_ND) == 0)
    assert np.all(np.isfinite(relative_move(np.zeros((2, 2)), np.ones((2, 2)))))


def test_an_interval_holds_its_value():
    assert Statistic(2.0, np.array([0.0, 1.0])).interval() == pytest.approx((2.0, 0.025, 2.0))
