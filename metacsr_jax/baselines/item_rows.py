"""A sparse item-to-item matrix, and the scores of histories under it.

Dimension key: B users of a batch, L context, I items (I1: I + 1), P item pairs with a weight, H history events of a batch,
Q entries of their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from metacsr_jax.cases import CaseBatch


class ItemRows(NamedTuple):
    """Weights from items of a history to items that may come next, in compressed rows.

    Attributes:
      offset_I1: int64 [I + 1]; the row of item i is offset[i] <= p < offset[i + 1].
      next_P: int32 [P], the item that gets the weight, each at most once in a row.
      weight_P: float64 [P].
    """

    offset_I1: np.ndarray
    next_P: np.ndarray
    weight_P: np.ndarray


def context_events(batch: CaseBatch, distinct: bool = False) -> tuple[np.ndarray, ...]:
    """The real events of every context.

    Args:
      batch: `context_BL` and `length_B` are read.
      distinct: of an item that comes several times in a context, only the latest event.

    Returns:
      Rows of the batch, positions in the context and item codes, [H] each.
    """
    context_BL, length_B = np.asarray(batch.context_BL), np.asarray(batch.length_B)
    width = context_BL.shape[1]
    real_BL = np.arange(width) >= width - length_B[:, None]
    if distinct:
        later_LL = np.arange(width)[:, None] < np.arange(width)
        same_BLL = context_BL[:, :, None] == context_BL[:, None, :]
        real_BL = real_BL & ~(same_BLL & later_LL).any(axis=2)
    user_H, position_H = np.nonzero(real_BL)
    return user_H, position_H, context_BL[user_H, position_H]


def add_rows(
    rows: ItemRows, batch: CaseBatch, decay: float = 1.0, distinct: bool = False
) -> np.ndarray:
    """Adds up the rows of the items in each context.

    Args:
      rows: of the whole catalogue.
      batch: the contexts.
      decay: factor per event back in the history; the latest has weight 1.
      distinct: count an item once however often it comes.

    Returns:
      float32 [B, I], 0 where no item of the context has a weight for the item.
    """
    users, width = np.shape(batch.context_BL)
    items = len(rows.offset_I1) - 1
    user_H, position_H, item_H = context_events(batch, distinct)
    decay_H = decay ** (width - 1.0 - position_H)
    # The non-zero entries of all rows in a line: entry q of history event h is first_H[h] + q.
    first_H = rows.offset_I1[item_H]
    size_H = rows.offset_I1[item_H + 1] - first_H
    event_Q = np.repeat(np.arange(item_H.size), size_H)
    entry_Q = np.arange(event_Q.size) + (first_H - (np.cumsum(size_H) - size_H))[event_Q]
    cell_Q = user_H[event_Q] * items + rows.next_P[entry_Q]
    score_X = np.bincount(cell_Q, decay_H[event_Q] * rows.weight_P[entry_Q], users * items)
    return score_X.reshape(users, items).astype(np.float32)
