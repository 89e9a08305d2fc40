"""Bootstrap intervals against exact distributions and the normal approximation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.errors import DataError
from metacsr_jax.evaluation import significance
from metacsr_jax.evaluation.significance import mean_interval, paired_interval


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
