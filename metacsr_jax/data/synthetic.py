"""The embedded log: users who follow a hidden rule, so that adapting to one user can pay.

Every item has a series, a group and a cue. A planted event goes to

- the next series after that of the last item, round a circle that all users share (`transitions`),
- the group that the user's hidden permutation gives for the cue of the last item (`taste`); with
  `transitions` it departs from one that all users share at `personal` of the cues,

and draws an item there by popularity; any other event draws from the whole catalogue by popularity.
Cues are as good as independent of series and group. So the bag of a user's items tells nothing
about the user's permutation, and nor do other users; the user's own (context, next) pairs do: an
item with the same cue came earlier, and what followed it tells what to expect now.

    transitions  taste   a planted event draws from
    yes          yes     one group of one series
    yes          no      one series: users are all alike
    no           yes     one group, all permutations alike: others tell but that cues matter
    no           no      the whole catalogue: all events are independent and follow popularity

No user does the same item twice. Since a ranking's negatives are never a user's own items, repeats
would let a model win with the history alone, even on a log without any order; without them
popularity is the best that can be done there.

Dimension key: E events, U users, I items (I1: I + 1), C cells (C1: C + 1), G groups and cues,
N users of a block, T events of a user, A users of a block still active.
"""

import math
from typing import NamedTuple

import numpy as np

from metacsr_jax.config import SyntheticConfig
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import ConfigError

_BLOCK = 4096  # users walked at once: bounds the matrix of what they have seen
_TRIES = 32  # rejected draws from a range before the whole catalogue, then an exact draw
_START = 1_577_836_800  # unix seconds of the first possible event, 2020-01-01


class Plant(NamedTuple):
    """What is hidden in the log, for oracles and tests; items in hidden order, cell by cell.

    Without `transitions` there is one series, without `taste` one group.

    Attributes:
      bound_C1: int64 [series * groups + 1]; cell c = series * groups + group holds the items
        bound[c] <= i < bound[c + 1].
      cell_I: int64 [I], the cell of each item.
      cue_I: int64 [I], 0..groups-1.
      weight_I: float64 [I], popularity, sums to 1.
      item_id_I: int64 [I], ids 1..I in the log.
      rule_UG: int64 [U, groups], the group that follows each cue, of user id u + 1.
    """

    bound_C1: np.ndarray
    cell_I: np.ndarray
    cue_I: np.ndarray
    weight_I: np.ndarray
    item_id_I: np.ndarray
    rule_UG: np.ndarray

    def next_cell(self, user_A: np.ndarray, last_A: np.ndarray) -> np.ndarray:
        """The cells in which a planted event falls.

        Args:
          user_A: int [A], user ids less one.
          last_A: int [A], their last items, in hidden order.

        Returns:
          int64 [A] cells.
        """
        cells, groups = len(self.bound_C1) - 1, self.rule_UG.shape[1]
        series_A = (self.cell_I[last_A] // groups + 1) % (cells // groups)
        return series_A * groups + self.rule_UG[user_A, self.cue_I[last_A]]


def plant(config: SyntheticConfig) -> Plant:
    """Draws the hidden structure of the log of `generate(config)`.

    Args:
      config: settings, all read.

    Returns:
      The plant, the same for the same settings.

    Raises:
      ConfigError: a setting is out of its range.
    """
    _check(config)
    rng = np.random.default_rng([config.seed, 0])
    groups = config.groups if config.taste else 1
    cells = groups * (config.series if config.transitions else 1)
    bound_C1 = -(-np.arange(cells + 1) * config.items // cells)
    cell_I = np.repeat(np.arange(cells), np.diff(bound_C1))
    # Cues go round within a cell, and each cell begins with another, so that all are as frequent.
    cue_I = (np.arange(config.items) - bound_C1[cell_I] + cell_I) % groups
    weight_I = rng.permutation(np.arange(1.0, config.items + 1) ** -config.popularity_skew)
    item_id_I = rng.permutation(config.items) + 1
    shared_UG = np.tile(np.arange(groups), (config.users, 1))
    own_UG = rng.permuted(shared_UG, axis=1)
    rule_UG = shared_UG if config.transitions else own_UG
    if config.transitions and config.taste:
        own_UG = own_UG[:, : round(config.personal * groups)]
        np.put_along_axis(rule_UG, own_UG, np.roll(own_UG, 1, axis=1), axis=1)
    return Plant(bound_C1, cell_I, cue_I, weight_I / weight_I.sum(), item_id_I, rule_UG)


def generate(config: SyntheticConfig) -> Interactions:
    """Draws a log with planted order, deterministic from `config.seed`.

    Args:
      config: settings, all read. A user has `min_events` plus a geometric number of events,
        `mean_events` on average, at most half the catalogue.

    Returns:
      A log without ratings, sorted by time; user ids 1..users, item ids within 1..items, times in
      unix seconds that strictly increase within a user. With `attributes` its item features are
      series, group and cue, one-hot.

    Raises:
      ConfigError: a setting is out of its range.
    """
    hidden = plant(config)
    rng = np.random.default_rng([config.seed, 1])
    extra_U = rng.geometric(1 / (config.mean_events - config.min_events + 1), size=config.users) - 1
    length_U = np.minimum(config.min_events + extra_U, config.items // 2)
    item_E = np.concatenate(
        [
            _walk(config.predictability, hidden, first, length_U[first : first + _BLOCK], rng)
            for first in range(0, config.users, _BLOCK)
        ]
    )
    user_E = np.repeat(np.arange(config.users), length_U)
    # Users start within a year and do something every six hours on average.
    start_U = _START + rng.integers(365 * 86_400, size=config.users)
    elapsed_E = np.cumsum(rng.geometric(1 / 21_600, size=user_E.size))
    first_U = np.concatenate([[0], np.cumsum(length_U)[:-1]])
    time_E = start_U[user_E] + elapsed_E - elapsed_E[first_U][user_E]
    order_E = np.lexsort((user_E, time_E))
    return Interactions.from_ids(
        user=user_E[order_E] + 1,
        item=hidden.item_id_I[item_E[order_E]],
        time=time_E[order_E],
        name="synthetic",
        item_features=_attributes(hidden, item_E) if config.attributes else None,
    )


def _attributes(hidden: Plant, item_E: np.ndarray) -> np.ndarray:
    """Series, group and cue of the items of a log, one-hot, in the order of their ids."""
    seen_I = np.unique(item_E)
    seen_I = seen_I[np.argsort(hidden.item_id_I[seen_I])]
    groups = hidden.rule_UG.shape[1]
    series_I, group_I = np.divmod(hidden.cell_I[seen_I], groups)
    series = np.eye((len(hidden.bound_C1) - 1) // groups)[series_I]
    one_hot = np.eye(groups)
    parts = [series, one_hot[group_I], one_hot[hidden.cue_I[seen_I]]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _walk(
    predictability: float,
    hidden: Plant,
    first_user: int,
    length_N: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Events of a block of users, user after user, as items in hidden order."""
    items, steps = len(hidden.weight_I), int(length_N.max())
    cdf_I1 = np.concatenate([[0.0], np.cumsum(hidden.weight_I)])
    item_NT = np.zeros((length_N.size, steps), np.int64)
    seen_NI = np.zeros((length_N.size, items), bool)
    for step in range(steps):
        active_A = np.flatnonzero(length_N > step)
        low_A = np.zeros(active_A.size, np.int64)
        high_A = np.full(active_A.size, items)
        if step:
            planted_A = rng.random(active_A.size) < predictability
            cell_A = hidden.next_cell(first_user + active_A, item_NT[active_A, step - 1])
            low_A = np.where(planted_A, hidden.bound_C1[cell_A], low_A)
            high_A = np.where(planted_A, hidden.bound_C1[cell_A + 1], high_A)
        item_A = _draw_unseen(rng, cdf_I1, seen_NI, active_A, low_A, high_A)
        item_NT[active_A, step] = item_A
        seen_NI[active_A, item_A] = True
    return item_NT[np.arange(steps) < length_N[:, None]]


def _draw_unseen(
    rng: np.random.Generator,
    cdf_I1: np.ndarray,
    seen_NI: np.ndarray,
    active_A: np.ndarray,
    low_A: np.ndarray,
    high_A: np.ndarray,
) -> np.ndarray:
    """One unseen item per active user, by popularity, from low..high-1 unless that is used up."""
    item_A = np.zeros(active_A.size, np.int64)
    pending = np.arange(active_A.size)
    for attempt in range(2 * _TRIES):
        if attempt < _TRIES:
            low, high = low_A[pending], high_A[pending]
        else:
            low, high = np.zeros_like(pending), np.full_like(pending, cdf_I1.size - 1)
        mass = cdf_I1[low] + rng.random(pending.size) * (cdf_I1[high] - cdf_I1[low])
        drawn = np.clip(np.searchsorted(cdf_I1, mass, side="right") - 1, low, high - 1)
        item_A[pending] = drawn
        pending = pending[seen_NI[active_A[pending], drawn]]
        if not pending.size:
            return item_A
    # Users who have done nearly all that is popular: the same distribution, item by item.
    weight = np.where(seen_NI[active_A[pending]], 0.0, np.diff(cdf_I1))
    mass = rng.random(pending.size) * weight.sum(axis=1)
    item_A[pending] = np.argmax(np.cumsum(weight, axis=1) > mass[:, None], axis=1)
    return item_A


def _check(config: SyntheticConfig) -> None:
    """Raises ConfigError where a setting is out of its range."""
    least_items = 2 * config.min_events
    most_groups = config.items // max(config.series, 1)
    for ok, name, expected in (
        (config.users >= 2, "users", "at least 2"),
        (config.min_events >= 2, "min_events", "at least 2"),
        (
            config.min_events <= config.mean_events < math.inf,
            "mean_events",
            f"finite, at least min_events={config.min_events}",
        ),
        (config.items >= least_items, "items", f"at least 2 * min_events={least_items}"),
        (1 <= config.series <= config.items, "series", f"1 to items={config.items}"),
        (1 <= config.groups <= most_groups, "groups", f"1 to items // series={most_groups}"),
        (0 <= config.predictability <= 1, "predictability", "0 to 1"),
        (0 <= config.personal <= 1, "personal", "0 to 1"),
        (0 <= config.popularity_skew <= 4, "popularity_skew", "0 to 4"),
        (config.seed >= 0, "seed", "at least 0"),
    ):
        if not ok:
            raise ConfigError(f"synthetic.{name}={getattr(config, name)}: expected {expected}")
