"""How far apart two clouds of vectors are, and how much two distributions overlap: what a picture alone does not prove.

Dimension key: N and M vectors of two clouds, D = dim, R resamples, B bins.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

BINS = 60


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

    def coefficient(weight_N, weight_M):
        across = weight_N @ across_NM @ weight_M
        inside = weight_N @ one_NN @ weight_N + weight_M @ other_MM @ weight_M
        return (2 * across - inside) / (2 * across) if across else 0.0

    n, m = across_NM.shape
    value = coefficient(np.full(n, 1 / n), np.full(m, 1 / m))
    # Streams of their own, so that clouds of the same users are resampled alike whatever they are held against.
    rng_n, rng_m = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    resampled_R = np.array(
        [
            coefficient(
                rng_n.multinomial(n, np.full(n, 1 / n)) / n,
                rng_m.multinomial(m, np.full(m, 1 / m)) / m,
            )
            for _ in range(resamples)
        ]
    )
    return Statistic(value, resampled_R - (resampled_R.mean() - value))


def overlap(
    positive_N: np.ndarray, negative_NC: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Statistic:
    """Histogram intersection of positive and negative similarities, sum over bins of min(p, q): 1 where they are alike, 0 where apart.

    Args:
        positive_N: similarity of each user's held-out item.
        negative_NC: of the user's negatives.
        resamples: R, of users.
        seed: of the resamples.
    """
    edges_B1 = common_edges(positive_N, negative_NC)
    users = len(positive_N)
    positive_NB = np.zeros((users, BINS))
    positive_NB[np.arange(users), _bins(positive_N, edges_B1)] = 1
    negative_NB = np.zeros((users, BINS))
    place_NC = _bins(negative_NC, edges_B1)
    np.add.at(negative_NB, (np.arange(users)[:, None], place_NC), 1 / negative_NC.shape[1])
    rng = np.random.default_rng(seed)
    weight_RN = rng.multinomial(users, np.full(users, 1 / users), size=resamples) / users
    resampled_R = np.minimum(weight_RN @ positive_NB, weight_RN @ negative_NB).sum(axis=1)
    value = float(np.minimum(positive_NB.mean(0), negative_NB.mean(0)).sum())
    return Statistic(value, resampled_R - (resampled_R.mean() - value))


def common_edges(positive_N: np.ndarray, negative_NC: np.ndarray) -> np.ndarray:
    """Edges of `BINS` equal bins over the middle 99 % of both; what lies outside counts in the bins at the ends.

    A few extreme pairs would else stretch the bins until everything lies in one.
    """
    both = (np.ravel(positive_N), np.ravel(negative_NC))
    low = min(np.quantile(of, 0.005, method="lower") for of in both)
    high = max(np.quantile(of, 0.995, method="higher") for of in both)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def mean_statistic(value_N: np.ndarray, resamples: int = 1000, seed: int = 0) -> Statistic:
    """Mean over users and its resamples."""
    users = len(value_N)
    rng = np.random.default_rng(seed)
    weight_RN = rng.multinomial(users, np.full(users, 1 / users), size=resamples) / users
    return Statistic(float(np.mean(value_N)), weight_RN @ value_N)


def relative_move(before_ND: np.ndarray, after_ND: np.ndarray) -> np.ndarray:
    """How far each vector moves, in units of the cloud's spread (root mean square distance from its mean), [N]."""
    spread = np.sqrt(((before_ND - before_ND.mean(0)) ** 2).sum(1).mean())
    moved_N = np.linalg.norm(after_ND - before_ND, axis=1)
    return moved_N / spread if spread else moved_N


def _bins(value: np.ndarray, edges_B1: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges_B1, value, side="right") - 1, 0, BINS - 1)
