"""Repeat: what the user had before, the latest first, then the most popular items. A bar for logs in which users come back to items.

Dimension key: B users of a batch, I items of the catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.baselines.item_rows import context_events
from metacsr_jax.baselines.popular import popularity, same_for_all

if TYPE_CHECKING:
    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.config import Config


def score(count_I: np.ndarray, batch: CaseBatch) -> np.ndarray:
    """Items of the context above all others, float32 [B, I].

    Args:
      count_I: popularity, which orders the others; scaled into [0, 1).
      batch: the contexts; the item at position l scores 1 + l, an item that comes twice at its latest position.
    """
    score_BI = same_for_all(count_I / (count_I.max(initial=0) + 1), batch)
    user_H, position_H, item_H = context_events(batch, distinct=True)
    score_BI[user_H, item_H] = 1.0 + position_H
    return score_BI


def repeat(config: Config) -> Baseline:
    """The model; it has no settings."""
    del config
    return Baseline(
        lambda protocol, key: popularity(protocol),
        lambda state, batch, adapt_steps: score(state, batch),
    )
