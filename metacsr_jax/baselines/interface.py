"""What a model to compare with is: two pure functions.

Dimension key: B users of a batch, I items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.protocol import Protocol


class Baseline(NamedTuple):
    """A pair of pure functions: learn from the regular users, score the catalogue for anybody.

    Attributes:
      fit: (protocol, key) -> state. Reads the training events of the protocol and nothing that is
        held out. The key is consumed; counting models have no use for it.
      score: (state, batch, adapt_steps) -> float32 [B, I], numpy or jax, higher is better. A model
        that does not adapt gives the same for every `adapt_steps`. The context of a batch is the
        latest events of a user, up to `max_length`: a model that needs more history needs a batch
        of greater `max_length`.
    """

    fit: Callable[[Protocol, jax.Array | None], Any]
    score: Callable[[Any, CaseBatch, int], np.ndarray]
