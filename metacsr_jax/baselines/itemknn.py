"""Item-kNN: items that the same users touched (Sarwar, Karypis, Konstan, Riedl, WWW 2001; the top-n form of Deshpande, Karypis, 2004).

cos(i, j) = c_ij / (sqrt(n_i n_j) + shrink), with c_ij the regular users who touched both and n_i those who touched i: the binary
user-item matrix. A user's score of j is the sum of cos(i, j) over the distinct items i of his context. Reading: all neighbours by
default (`neighbours` keeps the nearest of each item), no item is a neighbour of itself, no weight per neighbourhood.

Dimension key: R regular users, I items, F distinct (user, item) pairs, P item pairs that share a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.baselines.item_rows import ItemRows, add_rows
from metacsr_jax.protocol import training_events

if TYPE_CHECKING:
    from metacsr_jax.config import Config, ItemKNNConfig
    from metacsr_jax.protocol import Protocol


def user_item_matrix(protocol: Protocol) -> scipy.sparse.csr_array:
    """The regular users' training events as a binary matrix [R, I], float64."""
    training = training_events(protocol)
    shape = (len(training.offset_R1) - 1, protocol.num_items)
    ones_F = np.ones(training.item_F.size)
    matrix_RI = scipy.sparse.csr_array((ones_F, training.item_F, training.offset_R1), shape)
    matrix_RI.sum_duplicates()
    matrix_RI.data[:] = 1.0
    return matrix_RI


def cosines(protocol: Protocol, config: ItemKNNConfig) -> ItemRows:
    """Cosine of every pair of items that share a user.

    Args:
      protocol: its regular users' events without the last are counted.
      config: neighbours and shrinkage.

    Returns:
      Weights; memory grows with the pairs of items that share a user.
    """
    matrix_RI = user_item_matrix(protocol)
    users_I = np.asarray(matrix_RI.sum(axis=0))
    both_II = scipy.sparse.csr_array(matrix_RI.T @ matrix_RI)
    both_II.setdiag(0.0)
    both_II.eliminate_zeros()
    both_II.sort_indices()
    from_P = np.repeat(np.arange(protocol.num_items), np.diff(both_II.indptr))
    weight_P = both_II.data / (np.sqrt(users_I[from_P] * users_I[both_II.indices]) + config.shrink)
    if config.neighbours:
        order_P = np.lexsort((both_II.indices, -weight_P, from_P))  # nearest first; ties by code
        place_P = np.arange(from_P.size) - both_II.indptr[from_P]  # order_P keeps rows together
        kept_P = np.sort(order_P[place_P < config.neighbours])
        offset_I1 = np.searchsorted(from_P[kept_P], np.arange(protocol.num_items + 1))
        return ItemRows(offset_I1, both_II.indices[kept_P].astype(np.int32), weight_P[kept_P])
    return ItemRows(both_II.indptr.astype(np.int64), both_II.indices.astype(np.int32), weight_P)


def itemknn(config: Config) -> Baseline:
    """The model with its settings."""
    own = config.itemknn
    return Baseline(
        lambda protocol, key: cosines(protocol, own),
        lambda state, batch, adapt_steps: add_rows(state, batch, distinct=True),
    )
