"""What follows what, counted: the bar that a sequence model without counting has to clear.

An event of item i that comes k <= `lags` events before one of item j counts 1/k toward i -> j. Counts are divided by
sqrt(n_i n_j) + `shrink`, with n the training events of an item, and a history's rows are added up, the last one with weight 1,
the one before with `decay`, then its square, and so on. Transition counts at several lags are folklore; the constants of the
defaults (5, 10, .8) were fixed before any test case was looked at.

Dimension key: F training events, P item pairs with a count, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.baselines.item_rows import ItemRows, add_rows
from metacsr_jax.protocol import training_events

if TYPE_CHECKING:
    from metacsr_jax.config import Config, MarkovConfig
    from metacsr_jax.protocol import Protocol


def transitions(protocol: Protocol, config: MarkovConfig) -> ItemRows:
    """Counts transitions among the training events of each regular user and normalises them.

    Args:
      protocol: its regular users' events without the last are counted.
      config: lags and shrinkage.

    Returns:
      The weights. Memory grows with the training events, not with the square of the catalogue.
    """
    training = training_events(protocol)
    items = protocol.num_items
    item_F = training.item_F.astype(np.int64)
    user_F = np.repeat(np.arange(len(training.offset_R1) - 1), np.diff(training.offset_R1))
    pairs, weights = [], []
    for lag in range(1, config.lags + 1):
        same_user = user_F[lag:] == user_F[:-lag]
        pairs.append((item_F[:-lag] * items + item_F[lag:])[same_user])
        weights.append(np.full(pairs[-1].size, 1 / lag))
    pair_P, which = np.unique(np.concatenate(pairs), return_inverse=True)
    count_P = np.bincount(which, weights=np.concatenate(weights), minlength=pair_P.size)
    from_P, next_P = np.divmod(pair_P, items)
    popularity_I = np.bincount(item_F, minlength=items)
    # The smallest denominator there is a count for is 1, so that shrink = 0 divides by nothing smaller.
    weight_P = count_P / (np.sqrt(popularity_I[from_P] * popularity_I[next_P]) + config.shrink)
    offset_I1 = np.searchsorted(from_P, np.arange(items + 1))
    return ItemRows(offset_I1, next_P.astype(np.int32), weight_P)


def markov(config: Config) -> Baseline:
    """The model with its settings."""
    own = config.markov
    return Baseline(
        lambda protocol, key: transitions(protocol, own),
        lambda state, batch, adapt_steps: add_rows(state, batch, own.decay),
    )
