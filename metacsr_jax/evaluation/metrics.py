"""Metrics of one case from the rank of its target.

The rank is 0-based and is the mean rank under ties: the number of other candidates with a greater
score plus half of those with an equal one. So it may end in .5, and a constant scorer has rank
others / 2 and AUC 1/2.

Dimension key: N cases, M metrics (in the order of `METRICS`), K cut-offs.
"""

import numpy as np

from metacsr_jax.errors import DataError

MAX_CUTOFF = 20  # of Hit@n and NDCG@n

METRICS: tuple[str, ...] = (
    "auc",
    "map",
    *(f"hit@{n}" for n in range(1, MAX_CUTOFF + 1)),
    *(f"ndcg@{n}" for n in range(1, MAX_CUTOFF + 1)),
)


def per_case(rank_N: np.ndarray, others_N: np.ndarray) -> np.ndarray:
    """Metrics of each case; one relevant item per case (paper: section 4.1.3, eq. 16).

    auc = 1 - rank / others, map = 1 / (rank + 1), hit@n = [rank < n] and ndcg@n = [rank < n] /
    log2(rank + 2).

    Args:
      rank_N: 0-based mean rank of the target under ties, 0 <= rank <= others.
      others_N: candidates besides the target, at least 1.

    Returns:
      float64 metric_NM in [0, 1], columns in the order of `METRICS`.

    Raises:
      DataError: lengths differ, a rank is outside of 0..others, or a case has no other candidate.
    """
    rank_N = np.asarray(rank_N, np.float64)
    others_N = np.asarray(others_N, np.float64)
    if rank_N.ndim != 1 or rank_N.shape != others_N.shape:
        raise DataError(
            f"metrics: ranks of shape {rank_N.shape} and candidates of shape {others_N.shape}; "
            "expected one of each per case"
        )
    bad_N = ~((others_N >= 1) & (rank_N >= 0) & (rank_N <= others_N))
    if bad_N.any():
        case = int(np.argmax(bad_N))
        raise DataError(
            f"metrics: case {case} has rank {rank_N[case]} among {others_N[case]} others; "
            "expected 0 <= rank <= others and others >= 1"
        )
    hit_NK = rank_N[:, None] < np.arange(1, MAX_CUTOFF + 1)
    ndcg_NK = hit_NK / np.log2(rank_N + 2)[:, None]
    auc_N = 1 - rank_N / others_N
    map_N = 1 / (rank_N + 1)
    return np.concatenate([auc_N[:, None], map_N[:, None], hit_NK, ndcg_NK], axis=1)


def chance(others: int) -> np.ndarray:
    """Expected metrics of a scorer that orders its candidates at random.

    Args:
      others: candidates besides the target, at least 1; each rank 0..others is equally likely.

    Returns:
      float64 metric_M; for 100 others AUC .500, MAP .0515, Hit@10 .099 and NDCG@10 .045.
    """
    rank_N = np.arange(others + 1)
    return per_case(rank_N, np.full_like(rank_N, others)).mean(axis=0)
