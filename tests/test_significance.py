"""Bootstrap intervals against exact distributions and the normal approximation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metacsr_jax.errors import DataError
from metacsr_jax.evaluation import significance
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.significance import (
    holm,
    mean_interval,
    paired_interval,
    paired_test,
)


def test_interval_of_a_share_is_the_binomial_one():
    share, cases = 0.3, 2000
    metric = (np.arange(cases) < share * cases).astype(float)[:, None]
    value, low, high = mean_interval(metric, resamples=4000)
    half = 1.96 * math.sqrt(share * (1 - share) / cases)
    assert value[0] == pytest.approx(share)
    assert low[0] == pytest.approx(share - half, abs=half / 10)
    assert high[0] == pytest.approx(share + half, abs=half / 10)


def test_two_cases_have_three_resampled_means():
    """Means 0, 1/2 and 1 with probabilities 1/4, 1/2, 1/4."""
    metric = np.array([[0.0], [1.0]])
    _, low, high = mean_interval(metric, resamples=500, level=0.95)
    assert (low[0], high[0]) == (0, 1)
    _, low, high = mean_interval(metric, resamples=500, level=0.4)
    assert (low[0], high[0]) == (0.5, 0.5)


def test_coverage():
    """About 95 % of the intervals of samples hold the mean they were drawn from."""
    rng = np.random.default_rng(0)
    metric = rng.exponential(size=(200, 300))
    _, low, high = mean_interval(metric, resamples=400)
    covered = ((low <= 1) & (high >= 1)).mean()
    assert 0.90 <= covered <= 0.98


def test_counts_are_resamples():
    count = significance._counts(np.random.default_rng(0), 50, 7)
    assert count.shape == (50, 7) and (count.sum(axis=1) == 7).all() and (count >= 0).all()
    assert len(np.unique(count, axis=0)) > 30


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_properties(cases, metrics, seed):
    metric = np.random.default_rng(seed).normal(size=(cases, metrics))
    value, low, high = mean_interval(metric, 60, seed)
    np.testing.assert_allclose(value, metric.mean(axis=0))
    assert (low <= value).all() and (value <= high).all()
    assert (low >= metric.min(axis=0) - 1e-12).all() and (high <= metric.max(axis=0) + 1e-12).all()
    again = mean_interval(metric, 60, seed)
    np.testing.assert_array_equal(low, again.low_M)
    # A column has the same interval alone as beside others, and moves with its metric.
    np.testing.assert_allclose(
        mean_interval(3 * metric[:, :1] + 1, 60, seed).high_M, 3 * high[:1] + 1
    )


def test_chunks_do_not_change_the_draws(monkeypatch):
    metric = np.random.default_rng(0).normal(size=(31, 3))
    whole = mean_interval(metric, 100)
    monkeypatch.setattr(significance, "_CHUNK", 31 * 7)
    np.testing.assert_allclose(whole, mean_interval(metric, 100), rtol=1e-12)


def test_pairing_removes_what_the_cases_share():
    rng = np.random.default_rng(0)
    difficulty, cases = rng.normal(size=(400, 1)), 400
    better = difficulty + 0.1 + 0.01 * rng.normal(size=(cases, 1))
    value, low, high = paired_interval(better, difficulty)
    assert 0.09 < low[0] < value[0] < high[0] < 0.11
    alone = mean_interval(better)
    assert alone.high_M[0] - alone.low_M[0] > 10 * (high[0] - low[0])
    value, low, high = paired_interval(difficulty, better)
    assert value[0] < 0 and high[0] < 0


def test_bad_input_is_refused():
    with pytest.raises(DataError, match=r"\[0, 2\]"):
        mean_interval(np.zeros((0, 2)))
    with pytest.raises(DataError, match="case 1 "):
        mean_interval(np.array([[0.0], [np.nan]]))
    with pytest.raises(DataError, match="0 resamples"):
        mean_interval(np.zeros((3, 1)), resamples=0)
    with pytest.raises(DataError, match=r"\[3, 1\] and \[4, 1\]"):
        paired_interval(np.zeros((3, 1)), np.zeros((4, 1)))


SIMULATIONS, CASES, OTHERS = 500, 400, 100
SHARES = {"better": 0.12, "worse": 0.10}  # of the geometric laws that ranks follow, cut at OTHERS


def simulated_map(rng, model: str, easy_SN: np.ndarray) -> np.ndarray:
    """Ranks' MAP per case, [simulations, cases]: easy cases are so for both models, noise is each one's own."""
    normal_SN = np.sqrt(0.5) * easy_SN + np.sqrt(0.5) * rng.normal(size=easy_SN.shape)
    rank_SN = stats.geom(SHARES[model]).ppf(stats.norm.cdf(normal_SN)) - 1
    rank_N = np.minimum(rank_SN, OTHERS).ravel()
    metric_NM = per_case(rank_N, np.full(rank_N.size, OTHERS))
    return metric_NM[:, METRICS.index("map")].reshape(easy_SN.shape)


def expected_map(model: str) -> float:
    """Sum of P(rank) / (rank + 1)."""
    rank = np.arange(OTHERS)
    law = stats.geom(SHARES[model])
    return float(np.sum(law.pmf(rank + 1) / (rank + 1)) + law.sf(OTHERS) / (OTHERS + 1))


def test_the_paired_interval_of_ranks_holds_their_known_difference_in_95_of_100():
    rng = np.random.default_rng(1)
    easy_SN = rng.normal(size=(SIMULATIONS, CASES))
    better_SN, worse_SN = (simulated_map(rng, model, easy_SN) for model in SHARES)
    truth = expected_map("better") - expected_map("worse")
    assert (better_SN - worse_SN).mean() == pytest.approx(truth, abs=0.002)
    held = 0
    for better_N, worse_N in zip(better_SN, worse_SN, strict=True):
        interval = paired_test(better_N[:, None], worse_N[:, None], resamples=1000).interval
        held += bool(interval.low_M[0] <= truth <= interval.high_M[0])
    assert 0.93 <= held / SIMULATIONS <= 0.97


def test_both_tests_are_wrong_in_5_of_100_where_nothing_differs():
    rng = np.random.default_rng(2)
    easy_SN = rng.normal(size=(SIMULATIONS, CASES))
    one_SN, other_SN = (simulated_map(rng, "worse", easy_SN) for _ in range(2))
    p_S2 = np.array(
        [
            (test.bootstrap_p_M[0], test.wilcoxon_p_M[0])
            for one_N, other_N in zip(one_SN, other_SN, strict=True)
            if (test := paired_test(one_N[:, None], other_N[:, None], resamples=400))
        ]
    )
    rejected_2 = (p_S2 < 0.05).mean(axis=0)
    assert (rejected_2 >= 0.03).all() and (rejected_2 <= 0.07).all()


def test_p_values_of_a_clear_difference_and_of_none():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(200, 1))
    clear = paired_test(one + 1, one + 0.1 * rng.normal(size=one.shape), resamples=1000)
    assert clear.bootstrap_p_M[0] == pytest.approx(2 / 1001), "as small as so many resamples allow"
    assert clear.wilcoxon_p_M[0] < 1e-20
    none = paired_test(one, one, resamples=1000)
    assert (none.bootstrap_p_M[0], none.wilcoxon_p_M[0]) == (1, 1)


def test_wilcoxon_by_hand():
    """Differences 1, 2, 3, -4: rank sums 6 and 4; normal approximation with variance n (n + 1) (2n + 1) / 24."""
    metric = np.array([[1.0], [2.0], [3.0], [-4.0]])
    p = paired_test(metric, np.zeros((4, 1)), resamples=10).wilcoxon_p_M[0]
    z = (4 - 4 * 5 / 4) / math.sqrt(4 * 5 * 9 / 24)
    assert p == pytest.approx(2 * stats.norm.cdf(z))


def test_rounding_breaks_no_ties():
    """Differences that are equal, and that are none, stay so whatever the order in which they were summed."""
    noise_N = np.array([1e-16, -1e-16, 1e-16, 0, -1e-16, 1e-16, 1e-16, -1e-16])
    exact_NM = np.array([0.1, 0.1, -0.1, 0, 0.1, 0.1, 0, 0.1])[:, None]
    other_NM = exact_NM + noise_N[:, None]
    zeros_NM = np.zeros_like(exact_NM)
    expected = paired_test(exact_NM, zeros_NM, 100)
    np.testing.assert_array_equal(
        paired_test(other_NM, zeros_NM, 100).wilcoxon_p_M, expected.wilcoxon_p_M
    )
    assert paired_test(other_NM, exact_NM, 100).wilcoxon_p_M == 1


def test_holm_by_hand():
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, 0.03, 0.005])), [3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005]
    )
    np.testing.assert_allclose(holm(np.array([0.6, 0.5])), [1, 1])
    assert holm(np.array([])).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(values):
    p_K = np.array(values)
    adjusted_K = holm(p_K)
    assert (adjusted_K >= p_K).all() and (adjusted_K <= np.minimum(1, p_K.size * p_K) + 1e-12).all()
    assert (np.diff(adjusted_K[np.argsort(p_K, kind="stable")]) >= 0).all()
