"""Bootstrap intervals of means over cases, and of paired differences of means.

Dimension key: N cases, M metrics, R resamples.
"""

from typing import NamedTuple

import numpy as np

from metacsr_jax.errors import DataError

_CHUNK = 300_000  # resampled cases held at once: bounds memory; the draws do not depend on it


class Interval(NamedTuple):
    """A mean over cases and its percentile interval, per metric."""

    value_M: np.ndarray  # float64
    low_M: np.ndarray
    high_M: np.ndarray


def mean_interval(
    metric_NM: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of each column and its percentile bootstrap interval (Efron, 1979) over the cases.

    All columns see the same resamples, and so do two calls with as many cases and the same seed.
    The interval always holds the mean.

    Args:
      metric_NM: any finite metrics, one row per case, at least one case.
      resamples: R, at least 1; 1000 moves the ends of a 95 % interval by about a twentieth of its
        width.
      seed: of the resamples.
      level: share of the resampled means inside the interval, in (0, 1).

    Raises:
      DataError: no case, a metric that is not finite, or a setting out of range.
    """
    metric_NM = np.asarray(metric_NM, np.float64)
    if metric_NM.ndim != 2 or not len(metric_NM):
        raise DataError(
            f"bootstrap: metrics of shape {list(metric_NM.shape)}; expected [cases >= 1, metrics]"
        )
    if not np.isfinite(metric_NM).all():
        case = int(np.argmax(~np.isfinite(metric_NM).all(axis=1)))
        raise DataError(
            f"bootstrap: case {case} has the metrics {metric_NM[case]}; expected finite ones"
        )
    if resamples < 1 or not 0 < level < 1:
        raise DataError(
            f"bootstrap: {resamples} resamples at level {level}; "
            "expected at least 1 and a level in (0, 1)"
        )
    cases = len(metric_NM)
    rng = np.random.default_rng(seed)
    means = []
    chunk = max(1, _CHUNK // cases)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        count_RN = _counts(rng, rows, cases)
        means.append(count_RN @ metric_NM / cases)
    tail = (1 - level) / 2
    low_M, high_M = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    value_M = metric_NM.mean(axis=0)
    # Rounding can put the mean of equal values outside, and few resamples any mean.
    return Interval(value_M, np.minimum(low_M, value_M), np.maximum(high_M, value_M))


def paired_interval(
    metric_NM: np.ndarray,
    baseline_NM: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of metric minus baseline and its bootstrap interval, both resampled by the same cases.

    Args:
      metric_NM: metrics of one model, one row per case.
      baseline_NM: metrics of another model, or of other adaptation steps, on the same cases in the
        same order.
      resamples, seed, level: as in `mean_interval`.

    Raises:
      DataError: the shapes differ, or as in `mean_interval`.
    """
    if np.shape(metric_NM) != np.shape(baseline_NM):
        raise DataError(
            f"paired bootstrap: metrics of shapes {list(np.shape(metric_NM))} and "
            f"{list(np.shape(baseline_NM))}; expected the same cases and metrics"
        )
    difference_NM = np.asarray(metric_NM, np.float64) - np.asarray(baseline_NM, np.float64)
    return mean_interval(difference_NM, resamples, seed, level)


def _counts(rng: np.random.Generator, rows: int, cases: int) -> np.ndarray:
    """How often each resample draws each case: a [rows, cases] matrix whose rows sum to `cases`."""
    drawn_RN = rng.integers(0, cases, size=(rows, cases))
    drawn_RN += np.arange(rows)[:, None] * cases
    return (
        np.bincount(drawn_RN.ravel(), minlength=rows * cases)
        .reshape(rows, cases)
        .astype(np.float64)
    )
