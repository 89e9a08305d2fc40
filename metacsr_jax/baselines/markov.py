"""What follows what, counted: the bar that a sequence model without counting has to clear.

An event of item i that comes k <= 5 events before one of item j counts 1/k toward i -> j. Counts
are divided by sqrt(n_i n_j) + 10, with n the training events of an item, and a history's rows are
added up, the last one with weight 1, the one before with .8, then .64, and so on.

Dimension key: B users of a batch, L context, I items (I1: I + 1), F training events, P item pairs
with a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.protocol import training_events

if TYPE_CHECKING:
    import jax

    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.protocol import Protocol

_LAGS = 5  # events between which a transition counts
_SHRINK = 10.0  # added to the denominator: rare pairs are worth less
_DECAY = 0.8  # per event back in the history


class MarkovState(NamedTuple):
    """Normalised transition weights in compressed rows.

    Attributes:
      offset_I1: int64 [I + 1]; the row of item i is offset[i] <= p < offset[i + 1].
      next_P: int32 [P], the item that follows, ascending within a row.
      weight_P: float64 [P], positive.
    """

    offset_I1: np.ndarray
    next_P: np.ndarray
    weight_P: np.ndarray


def fit(protocol: Protocol, key: jax.Array | None = None) -> MarkovState:
    """Counts transitions among the training events of each regular user.

    Args:
      protocol: its regular users' events without the last are counted.
      key: unused, counting is deterministic.

    Returns:
      The weights. Memory grows with the training events, not with the square of the catalogue.
    """
    del key
    training = training_events(protocol)
    items = len(protocol.item_ids)
    item_F = training.item_F.astype(np.int64)
    user_F = np.repeat(np.arange(len(training.offset_R1) - 1), np.diff(training.offset_R1))
    pairs, weights = [], []
    for lag in range(1, _LAGS + 1):
        same_user = user_F[lag:] == user_F[:-lag]
        pairs.append((item_F[:-lag] * items + item_F[lag:])[same_user])
        weights.append(np.full(pairs[-1].size, 1 / lag))
    pair_P, which = np.unique(np.concatenate(pairs), return_inverse=True)
    count_P = np.bincount(which, weights=np.concatenate(weights), minlength=pair_P.size)
    from_P, next_P = np.divmod(pair_P, items)
    popularity_I = np.bincount(item_F, minlength=items)
    weight_P = count_P / (np.sqrt(popularity_I[from_P] * popularity_I[next_P]) + _SHRINK)
    offset_I1 = np.searchsorted(from_P, np.arange(items + 1))
    return MarkovState(offset_I1, next_P.astype(np.int32), weight_P)


def score(state: MarkovState, batch: CaseBatch, adapt_steps: int = 0) -> np.ndarray:
    """Adds up the rows of the items in the context, the latest weighing most.

    Args:
      state: from `fit`.
      batch: `context_BL` and `length_B` are read.
      adapt_steps: unused, nothing adapts.

    Returns:
      float32 [B, I], 0 where no item of the context was ever followed by the item.
    """
    del adapt_steps
    context_BL, length_B = np.asarray(batch.context_BL), np.asarray(batch.length_B)
    users, width = context_BL.shape
    items = len(state.offset_I1) - 1
    user_H, position_H = np.nonzero(np.arange(width) >= width - length_B[:, None])
    row_H = context_BL[user_H, position_H]
    decay_H = _DECAY ** (width - 1.0 - position_H)
    # The non-zero entries of all rows in a line: entry q of history event h is first_H[h] + q.
    first_H = state.offset_I1[row_H]
    size_H = state.offset_I1[row_H + 1] - first_H
    event_Q = np.repeat(np.arange(row_H.size), size_H)
    entry_Q = np.arange(event_Q.size) + (first_H - (np.cumsum(size_H) - size_H))[event_Q]
    cell_Q = user_H[event_Q] * items + state.next_P[entry_Q]
    score_X = np.bincount(cell_Q, decay_H[event_Q] * state.weight_P[entry_Q], users * items)
    return score_X.reshape(users, items).astype(np.float32)


markov = Baseline(fit, score)
