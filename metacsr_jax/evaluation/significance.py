"""Bootstrap intervals of means over cases and of paired differences, and tests of those.

Dimension key: N cases, M metrics, R resamples, K comparisons.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from metacsr_jax.errors import DataError

_CHUNK = 300_000  # resampled cases held at once: bounds memory; the draws do not depend on it


class Interval(NamedTuple):
    """A mean over cases and its percentile interval, per metric."""

    value_M: np.ndarray  # float64
    low_M: np.ndarray
    high_M: np.ndarray


class PairedTest(NamedTuple):
    """A mean difference over cases, its percentile interval, and two p-values of "no difference", per metric."""

    interval: Interval
    bootstrap_p_M: (
        np.ndarray
    )  # two-sided, by inverting the percentile interval; at least 2 / (R + 1)
    wilcoxon_p_M: np.ndarray  # two-sided signed-rank test, zero differences ranked too (Pratt)


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
    if not 0 < level < 1:
        raise DataError(f"bootstrap: level {level}; expected one in (0, 1)")
    metric_NM = np.asarray(metric_NM, np.float64)
    return _interval(metric_NM, resampled_means(metric_NM, resamples, seed), level)


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
    return mean_interval(_difference(metric_NM, baseline_NM), resamples, seed, level)


def paired_test(
    metric_NM: np.ndarray,
    baseline_NM: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedTest:
    """Whether two models differ on the same cases.

    Args:
      metric_NM, baseline_NM: as in `paired_interval`.
      resamples, seed, level: as in `mean_interval`.

    Returns:
      The difference metric minus baseline with its interval, the bootstrap's p-value (twice the smaller share of resampled mean
      differences on either side of 0, each share counted with one more resample than was drawn) and Wilcoxon's.

    Raises:
      DataError: as `paired_interval`.
    """
    difference_NM = _difference(metric_NM, baseline_NM)
    mean_RM = resampled_means(difference_NM, resamples, seed)
    below_M, above_M = (mean_RM <= 0).sum(axis=0), (mean_RM >= 0).sum(axis=0)
    bootstrap_p_M = 2 * (1 + np.minimum(below_M, above_M)) / (len(mean_RM) + 1)
    wilcoxon_p_M = [_wilcoxon(of_metric) for of_metric in difference_NM.T]
    return PairedTest(
        _interval(difference_NM, mean_RM, level),
        np.minimum(bootstrap_p_M, 1.0),
        np.array(wilcoxon_p_M),
    )


def holm(p_K: np.ndarray) -> np.ndarray:
    """p-values adjusted for K comparisons so that the chance of any false rejection is bounded (Holm, 1979).

    Args:
      p_K: one p-value per comparison, in [0, 1].

    Returns:
      The i-th smallest times K - i + 1, never below a smaller one's, at most 1; in the order given.
    """
    p_K = np.asarray(p_K, np.float64)
    order_K = np.argsort(p_K, kind="stable")
    adjusted_K = np.maximum.accumulate(p_K[order_K] * np.arange(p_K.size, 0, -1))
    result_K = np.empty_like(p_K)
    result_K[order_K] = np.minimum(adjusted_K, 1.0)
    return result_K


def _difference(metric_NM: np.ndarray, baseline_NM: np.ndarray) -> np.ndarray:
    if np.shape(metric_NM) != np.shape(baseline_NM):
        raise DataError(
            f"paired bootstrap: metrics of shapes {list(np.shape(metric_NM))} and "
            f"{list(np.shape(baseline_NM))}; expected the same cases and metrics"
        )
    difference_NM = np.asarray(metric_NM, np.float64) - np.asarray(baseline_NM, np.float64)
    # Equal differences that rounding took apart would be no ties to Wilcoxon's ranks, and zeros no zeros.
    return np.round(difference_NM, 12)


def _wilcoxon(difference_N: np.ndarray) -> float:
    if not difference_N.any():  # nothing differs: the test is not defined
        return 1.0
    return float(stats.wilcoxon(difference_N, zero_method="pratt", method="approx").pvalue)


def _interval(metric_NM: np.ndarray, mean_RM: np.ndarray, level: float) -> Interval:
    tail = (1 - level) / 2
    low_M, high_M = np.quantile(mean_RM, [tail, 1 - tail], axis=0)
    value_M = metric_NM.mean(axis=0)
    # Rounding can put the mean of equal values outside, and few resamples any mean.
    return Interval(value_M, np.minimum(low_M, value_M), np.maximum(high_M, value_M))


def resampled_means(metric_NM: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over cases drawn with replacement, [R, M]; equal for equal seeds and numbers of cases.

    Raises:
      DataError: no case, a metric that is not finite, or no resample.
    """
    if metric_NM.ndim != 2 or not len(metric_NM):
        raise DataError(
            f"bootstrap: metrics of shape {list(metric_NM.shape)}; expected [cases >= 1, metrics]"
        )
    if not np.isfinite(metric_NM).all():
        case = int(np.argmax(~np.isfinite(metric_NM).all(axis=1)))
        raise DataError(
            f"bootstrap: case {case} has the metrics {metric_NM[case]}; expected finite ones"
        )
    if resamples < 1:
        raise DataError(f"bootstrap: {resamples} resamples; expected at least 1")
    cases = len(metric_NM)
    rng = np.random.default_rng(seed)
    means = []
    chunk = max(1, _CHUNK // cases)
    for start in range(0, resamples, chunk):
        count_RN = _counts(rng, min(chunk, resamples - start), cases)
        means.append(count_RN @ metric_NM / cases)
    return np.concatenate(means)


def _counts(rng: np.random.Generator, rows: int, cases: int) -> np.ndarray:
    """How often each resample draws each case: a [rows, cases] matrix whose rows sum to `cases`."""
    drawn_RN = rng.integers(0, cases, size=(rows, cases))
    drawn_RN += np.arange(rows)[:, None] * cases
    return (
        np.bincount(drawn_RN.ravel(), minlength=rows * cases)
        .reshape(rows, cases)
        .astype(np.float64)
    )
