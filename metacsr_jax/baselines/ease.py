"""EASE: the item-to-item weights that best rebuild the user-item matrix, in closed form (Steck, WWW 2019).

With X the binary matrix of the regular users and P = (X^T X + lambda I)^-1: B_ij = -P_ij / P_jj off the diagonal, 0 on it (eq. 8).
A user's scores are x B, with x the distinct items of his context. Departure: only the `items` most frequent items take part
(ties by code), since the inverse is dense; the others score 0, as do users without a context.

Dimension key: R regular users, M items that take part, B users of a batch, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.baselines.item_rows import context_events
from metacsr_jax.baselines.itemknn import user_item_matrix

if TYPE_CHECKING:
    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.config import Config, EASEConfig
    from metacsr_jax.protocol import Protocol


class EASEState(NamedTuple):
    """The weights.

    Attributes:
      place_I: int64 [I], row of an item in the weights; -1: it takes no part.
      item_M: int64 [M], ascending item codes.
      weight_MM: float32 [M, M], from an item of the history (row) to an item scored (column).
    """

    place_I: np.ndarray
    item_M: np.ndarray
    weight_MM: np.ndarray


def regression(protocol: Protocol, config: EASEConfig) -> EASEState:
    """Solves for the weights.

    Args:
      protocol: its regular users' events without the last are X.
      config: lambda, and how many items take part.

    Returns:
      The weights; the solution takes O(M^3) time and 24 M^2 bytes.
    """
    matrix_RI = user_item_matrix(protocol)
    count_I = np.asarray(matrix_RI.sum(axis=0))
    item_M = np.sort(np.argsort(-count_I, kind="stable")[: config.items])
    matrix_RM = matrix_RI[:, item_M]
    gram_MM = (matrix_RM.T @ matrix_RM).toarray()
    gram_MM[np.diag_indices_from(gram_MM)] += config.regularisation
    factor = scipy.linalg.cho_factor(gram_MM, lower=True, overwrite_a=True, check_finite=False)
    inverse_MM = scipy.linalg.cho_solve(factor, np.eye(item_M.size), overwrite_b=True)
    weight_MM = inverse_MM / -np.diag(inverse_MM)
    np.fill_diagonal(weight_MM, 0.0)
    place_I = np.full(protocol.num_items, -1)
    place_I[item_M] = np.arange(item_M.size)
    return EASEState(place_I, item_M, weight_MM.astype(np.float32))


def score(state: EASEState, batch: CaseBatch) -> np.ndarray:
    """x B of each context, float32 [B, I]."""
    user_H, _, item_H = context_events(batch, distinct=True)
    place_H = state.place_I[item_H]
    history_BM = np.zeros((len(batch.length_B), state.item_M.size), np.float32)
    history_BM[user_H[place_H >= 0], place_H[place_H >= 0]] = 1.0
    score_BI = np.zeros((len(history_BM), state.place_I.size), np.float32)
    score_BI[:, state.item_M] = history_BM @ state.weight_MM
    return score_BI


def ease(config: Config) -> Baseline:
    """The model with its settings."""
    return Baseline(
        lambda protocol, key: regression(protocol, config.ease),
        lambda state, batch, adapt_steps: score(state, batch),
    )
