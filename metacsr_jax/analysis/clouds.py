"""How far apart two clouds of vectors are, and how much two distributions overlap: what a picture alone does not prove.

Dimension key: N and M vectors of two clouds, D = dim, R resamples, B bins.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from metacsr_jax.evaluation.significance import resampled_means

BINS = 60  # of a drawn histogram
OVERLAP_BINS = 10


class Statistic(NamedTuple):
    """A figure of merit, and its values on resampled users."""

    value: float
    resampled_R: np.ndarray

    def interval(self, level: float = 0.95) -> tuple[float, float, float]:
        """Value and percentile interval."""
        tail = (1 - level) / 2
        low, high = np.quantile(self.resampled_R, [tail, 1 - tail])
        return self.value, float(min(low, self.value)), float(max(high, self.value))

    def minus(self, other: "Statistic") -> "Statistic":
        """The difference; paired where both were resampled from as many users with one seed."""
        return Statistic(self.value - other.value, self.resampled_R - other.resampled_R)


def energy_distance(
    one_ND: np.ndarray, other_MD: np.ndarray, resamples: int = 500, seed: int = 0
) -> Statistic:
    """Energy coefficient of inhomogeneity, (2 E|X-Y| - E|X-X'| - E|Y-Y'|) / (2 E|X-Y|) (Székely and Rizzo, 2013).

    0: both clouds are one distribution; 1: two points. It does not change when all vectors are scaled, moved or rotated. Resamples draw
    vectors of both clouds; a bootstrap sample meets itself more often than a new one would, so that resampled values lie a little
    high, and are moved back by their mean excess.

    Args:
        one_ND, other_MD: the clouds, at least two vectors each.
        resamples: R.
        seed: of the resamples.
    """
    across_NM, one_NN, other_MM = (
        cdist(*pair) for pair in ((one_ND, other_MD), (one_ND, one_ND), (other_MD, other_MD))
    )

    def coefficient(weight_RN, weight_RM):
        across_R = np.sum(weight_RN @ across_NM * weight_RM, axis=1)
        inside_R = np.sum(weight_RN @ one_NN * weight_RN, axis=1)
        inside_R += np.sum(weight_RM @ other_MM * weight_RM, axis=1)
        apart_R = np.where(across_R > 0, 2 * across_R, 1.0)
        return np.where(across_R > 0, (apart_R - inside_R) / apart_R, 0.0)

    n, m = across_NM.shape
    even_N, even_M = np.full(n, 1 / n), np.full(m, 1 / m)
    value = float(coefficient(even_N[None], even_M[None])[0])
    # Streams of their own, so that clouds of the same users are resampled alike whatever they are held against.
    rng_n, rng_m = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    resampled_R = coefficient(
        rng_n.multinomial(n, even_N, resamples) / n, rng_m.multinomial(m, even_M, resamples) / m
    )
    return Statistic(value, resampled_R - (resampled_R.mean() - value))


def overlap(
    positive_N: np.ndarray, negative_NC: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Statistic:
    """Area under the histograms of both similarities, sum over bins of min(p, q): 1 where they are alike, 0 where apart.

    The bins are quantiles of both kinds together, so that the area stays the same whatever a monotone function does to the similarities.
    Few users leave gaps in a histogram and make the area too small; by the bootstrap's estimate of that, which falls short where both are
    alike, it is moved back. Compare areas of as many users: what is left of it is in both.

    Args:
        positive_N: similarity of each user's held-out item.
        negative_NC: of the user's negatives.
        resamples: R, of users.
        seed: of the resamples.
    """
    share_NB = binned(positive_N, negative_NC)
    bins = share_NB.shape[1] // 2

    def area(mean):
        return np.minimum(mean[..., :bins], mean[..., bins:]).sum(axis=-1)

    value = float(area(share_NB.mean(axis=0)))
    resampled_R = area(resampled_means(share_NB, resamples, seed))
    excess = resampled_R.mean() - value
    return Statistic(value - excess, resampled_R - 2 * excess)


def binned(positive_N: np.ndarray, negative_NC: np.ndarray) -> np.ndarray:
    """Which bin each user's positive is in, and what share of his negatives is in each: [N, 2 bins]."""
    users, count = negative_NC.shape
    pooled = np.concatenate([np.repeat(positive_N, count), negative_NC.ravel()])
    share = np.arange(1, OVERLAP_BINS) / OVERLAP_BINS
    edge_B = np.unique(np.quantile(pooled, share, method="lower"))
    bins = len(edge_B) + 1
    found_NB = np.zeros((users, 2 * bins))
    row_N = np.arange(users)
    found_NB[row_N, np.searchsorted(edge_B, positive_N, side="right")] = 1
    place_NC = bins + np.searchsorted(edge_B, negative_NC, side="right")
    np.add.at(found_NB, (row_N[:, None], place_NC), 1 / count)
    return found_NB


def common_edges(positive_N: np.ndarray, negative_NC: np.ndarray) -> np.ndarray:
    """Edges of `BINS` equal bins to draw, over the middle 99 % of both; what lies outside belongs into the bins at the ends.

    A few extreme pairs would else stretch the bins until everything lies in one.
    """
    both = (np.ravel(positive_N), np.ravel(negative_NC))
    low = min(np.quantile(of, 0.005, method="lower") for of in both)
    high = max(np.quantile(of, 0.995, method="higher") for of in both)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def mean_statistic(value_N: np.ndarray, resamples: int = 1000, seed: int = 0) -> Statistic:
    """Mean over users and its resamples."""
    resampled_R = resampled_means(np.asarray(value_N, np.float64)[:, None], resamples, seed)[:, 0]
    return Statistic(float(np.mean(value_N)), resampled_R)


def relative_move(before_ND: np.ndarray, after_ND: np.ndarray) -> np.ndarray:
    """How far each vector moves, in units of the cloud's spread (root mean square distance from its mean), [N]."""
    spread = np.sqrt(((before_ND - before_ND.mean(0)) ** 2).sum(1).mean())
    moved_N = np.linalg.norm(after_ND - before_ND, axis=1)
    return moved_N / spread if spread else moved_N
