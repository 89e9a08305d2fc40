"""A fixed random order per case: what a ranking by chance gets.

Dimension key: B users of a batch, I items of the catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metacsr_jax.baselines.interface import Baseline

if TYPE_CHECKING:
    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.config import Config


def score(items: int, batch: CaseBatch) -> np.ndarray:
    """Hashes the case's seed with the item: in a batch of any size a case has the same scores.

    Args:
      items: size of the catalogue.
      batch: `seed_B` is read.

    Returns:
      float32 [B, I], uniform in [0, 1).
    """
    seed_B = _mix(np.asarray(batch.seed_B).astype(np.uint32))
    hash_BI = _mix(seed_B[:, None] + _mix(np.arange(items, dtype=np.uint32)))
    return (hash_BI >> np.uint32(8)).astype(np.float32) / np.float32(2**24)


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint32 that spreads every bit over the whole word (murmur3's finaliser)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def random(config: Config) -> Baseline:
    """The model; chance comes from the cases' own seeds."""
    del config
    return Baseline(
        lambda protocol, key: protocol.num_items,
        lambda state, batch, adapt_steps: score(state, batch),
    )
