"""The embedded log: users who follow a hidden rule, so that adapting to one user can pay.

Every item has a series, a group and a cue. A planted event goes to

- the next series after that of the last item, round a circle that all users share (`transitions`),
- the group that the user's hidden permutation gives for the cue of the last item (`taste`),

and draws an item there by popularity; any other event draws from the whole catalogue by popularity.
Cues are as good as independent of series and group. So the bag of a user's items tells nothing
about the permutation, and neither do other users; the user's own (context, next) pairs do: an item
with the same cue came earlier, and it tells what to expect now. A gradient step on such a pair
learns just that.

    transitions  taste   a planted event draws from
    yes          yes     one group of one series
    yes          no      one series: users are all alike
    no           yes     one group: nothing to learn from others but that cues matter
    no           no      the whole catalogue: all events are independent and follow popularity

No user does the same item twice. Since a ranking's negatives are never a user's own items, repeats
would let a model win with the history alone, even on a log without any order; without them
popularity is the best that can be done there.

Dimension key: E events, U users, I items (I1: I + 1), N users of a block, A users of a block still
active, C cells (C1: C + 1).
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

    Attributes:
      bound_C1: int64 [groups * series + 1]; cell c = g * series + s holds the items
        bound[c] <= i < bound[c + 1].
      weight_I: float64 [I], popularity, sums to 1.
      item_id_I: int64 [I], ids 1..I in the log.
      offset_U: int64 [U], step of user id u + 1 on the circle of groups; 0: no rule.
    """

    bound_C1: np.ndarray
    weight_I: np.ndarray
    item_id_I: np.ndarray
    offset_U: np.ndarray


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
    cells = config.groups * config.series
    bound_C1 = -(-np.arange(cells + 1) * config.items // cells)
    weight_I = rng.permutation(np.arange(1.0, config.items + 1) ** -config.popularity_skew)
    item_id_I = rng.permutation(config.items) + 1
    units = [step for step in range(1, config.groups) if math.gcd(step, config.groups) == 1]
    if not (config.transitions or config.taste):
        rules = np.zeros(1, np.int64)
    elif not config.transitions:
        rules = np.array(units)
    else:
        rules = rng.permutation(units)[: config.rules if config.taste else 1]
    offset_U = rules[rng.integers(rules.size, size=config.users)]
    return Plant(bound_C1, weight_I / weight_I.sum(), item_id_I, offset_U)


def generate(config: SyntheticConfig) -> Interactions:
    """Draws a log with planted order, deterministic from `config.seed`.

    Args:
      config: settings, all read. A user has `min_events` plus a geometric number of events,
        `mean_events` on average, at most half the catalogue. Every user has at least `min_events`
        events, every event another item.

    Returns:
      A log without ratings, sorted by time; user ids 1..users, item ids within 1..items, times in
      unix seconds that strictly increase within a user.

    Raises:
      ConfigError: a setting is out of its range.
    """
    hidden = plant(config)
    rng = np.random.default_rng([config.seed, 1])
    extra_U = rng.geometric(1 / (config.mean_events - config.min_events + 1), size=config.users) - 1
    length_U = np.minimum(config.min_events + extra_U, config.items // 2)
    item_E = np.concatenate(
        [
            _walk(
                config,
                hidden,
                length_U[first : first + _BLOCK],
                hidden.offset_U[first : first + _BLOCK],
                rng,
            )
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
    )


def _walk(
    config: SyntheticConfig,
    hidden: Plant,
    length_N: np.ndarray,
    offset_N: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Events of a block of users, user after user, as items in hidden order."""
    cdf_I1 = np.concatenate([[0.0], np.cumsum(hidden.weight_I)])
    steps = int(length_N.max())
    item_NT = np.zeros((length_N.size, steps), np.int64)
    seen_NI = np.zeros((length_N.size, config.items), bool)
    for step in range(steps):
        active_A = np.flatnonzero(length_N > step)
        low_A = np.zeros(active_A.size, np.int64)
        high_A = np.full(active_A.size, config.items)
        if step:
            follows_A = rng.random(active_A.size) < config.predictability
            follows_A &= offset_N[active_A] > 0
            last_A = item_NT[active_A, step - 1]
            cell_A = np.searchsorted(hidden.bound_C1, last_A, side="right") - 1
            cell_A = (cell_A + offset_N[active_A] * config.series) % (hidden.bound_C1.size - 1)
            low_A = np.where(follows_A, hidden.bound_C1[cell_A], low_A)
            high_A = np.where(follows_A, hidden.bound_C1[cell_A + 1], high_A)
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
    units = sum(math.gcd(step, config.groups) == 1 for step in range(1, config.groups))
    for ok, name, expected in (
        (config.users >= 2, "users", "at least 2"),
        (config.min_events >= 2, "min_events", "at least 2"),
        (
            config.min_events <= config.mean_events < math.inf,
            "mean_events",
            f"finite, at least min_events={config.min_events}",
        ),
        (
            config.items >= 2 * config.min_events,
            "items",
            f"at least 2 * min_events={2 * config.min_events}",
        ),
        (config.groups >= 2, "groups", "at least 2"),
        (
            1 <= config.series <= config.items // max(config.groups, 1),
            "series",
            "1 to items // groups",
        ),
        (0 <= config.predictability <= 1, "predictability", "0 to 1"),
        (0 <= config.popularity_skew <= 4, "popularity_skew", "0 to 4"),
        (
            1 <= config.rules <= units,
            "rules",
            f"1 to {units}, the steps coprime to groups={config.groups}",
        ),
        (config.seed >= 0, "seed", "at least 0"),
    ):
        if not ok:
            raise ConfigError(f"synthetic.{name}={getattr(config, name)}: expected {expected}")
