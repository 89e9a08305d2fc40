"""Most popular items first: the same order for everybody.

Dimension key: B users of a batch, I items of the catalogue.
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


class PopularState(NamedTuple):
    """count_I: float32 [I], training events of each item."""

    count_I: np.ndarray


def fit(protocol: Protocol, key: jax.Array | None = None) -> PopularState:
    """Counts the training events of each item.

    Args:
      protocol: its regular users' events without the last are counted.
      key: unused, counting is deterministic.

    Returns:
      Counts, 0 for items without a training event.
    """
    del key
    item_F = training_events(protocol).item_F
    return PopularState(np.bincount(item_F, minlength=len(protocol.item_ids)).astype(np.float32))


def score(state: PopularState, batch: CaseBatch, adapt_steps: int = 0) -> np.ndarray:
    """Gives every user the counts.

    Args:
      state: from `fit`.
      batch: only its size is read.
      adapt_steps: unused, nothing adapts.

    Returns:
      float32 [B, I].
    """
    del adapt_steps
    return np.tile(state.count_I, (len(batch.length_B), 1))


popular = Baseline(fit, score)
