"""The same order for everybody: the most popular items, or those with which users begin.

Dimension key: R regular users, F training events, B users of a batch, I items of the catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.protocol import training_events

if TYPE_CHECKING:
    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.config import Config
    from metacsr_jax.protocol import Protocol


def popularity(protocol: Protocol, first: int | None = None) -> np.ndarray:
    """Training events of each item, float32 [I].

    Args:
      protocol: its regular users' events without the last are counted.
      first: only these many earliest events of each user; None: all.
    """
    training = training_events(protocol)
    place_F = np.arange(training.item_F.size) - np.repeat(
        training.offset_R1[:-1], np.diff(training.offset_R1)
    )
    item_F = training.item_F if first is None else training.item_F[place_F < first]
    return np.bincount(item_F, minlength=protocol.num_items).astype(np.float32)


def same_for_all(count_I: np.ndarray, batch: CaseBatch) -> np.ndarray:
    """The counts for every user of a batch, float32 [B, I]."""
    return np.tile(count_I, (len(batch.length_B), 1))


def popular(config: Config) -> Baseline:
    """MostPop: items by their training events."""
    del config
    return Baseline(
        lambda protocol, key: popularity(protocol),
        lambda state, batch, adapt_steps: same_for_all(state, batch),
    )


def popular_first(config: Config) -> Baseline:
    """MostPop over each user's first events, as many as are kept of a new user: what newcomers do."""
    return Baseline(
        lambda protocol, key: popularity(protocol, config.protocol.keep_new),
        lambda state, batch, adapt_steps: same_for_all(state, batch),
    )
