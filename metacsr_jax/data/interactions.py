"""The record of a log: who did what, when.

Dimension key: E events, U users, I items, F features.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from metacsr_jax.data.ids import encode_ids
from metacsr_jax.errors import DataError

LIMIT = 2**31 - 1  # events, users and items are counted in int32


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """A log of events in file order.

    Codes follow the sorted ids, so they, and whatever is hashed from them, do not depend on the
    order of the rows.

    Attributes:
      user_E: int32 codes into `user_ids`.
      item_E: int32 codes into `item_ids`.
      time_E: int64 unix seconds; the row number where `has_time` is False.
      rating_E: float32, finite, or None where the log has no ratings.
      user_ids: [U] original ids, sorted and unique; int64 where all of them are integers in
        canonical form, else strings.
      item_ids: [I] the same for items.
      name: label in reports.
      has_time: False where the log has an order but no times.
      declared_items: ids of the publisher's whole id range, of the dtype of `item_ids`, or None.
      counts: what reading met: 'rows' read, 'duplicates' dropped, 'malformed' skipped, ...
      item_features: float32 [I, F] or None.
      user_features: float32 [U, F] or None.

    Raises:
      DataError: on construction, if the parts do not fit together.
    """

    user_E: np.ndarray
    item_E: np.ndarray
    time_E: np.ndarray
    rating_E: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    name: str
    has_time: bool = True
    declared_items: np.ndarray | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    item_features: np.ndarray | None = None
    user_features: np.ndarray | None = None

    def __post_init__(self) -> None:
        events = len(self.user_E)
        if not 0 < events <= LIMIT:
            raise DataError(f"{self.name}: {events} events; expected 1 to {LIMIT}")
        columns = {"user_E": np.int32, "item_E": np.int32, "time_E": np.int64}
        if self.rating_E is not None:
            columns["rating_E"] = np.float32
        for column, dtype in columns.items():
            array = getattr(self, column)
            if array.shape != (events,) or array.dtype != dtype:
                raise DataError(
                    f"{self.name}: {column} is {array.dtype} {array.shape}; "
                    f"expected {np.dtype(dtype)} ({events},) as user_E has {events} events"
                )
        self._check_codes("user", self.user_E, self.user_ids, self.user_features)
        self._check_codes("item", self.item_E, self.item_ids, self.item_features)
        if self.rating_E is not None and not np.isfinite(self.rating_E).all():
            event = int(np.argmin(np.isfinite(self.rating_E)))
            raise DataError(
                f"{self.name}: rating_E[{event}] is {self.rating_E[event]}; expected finite ratings"
            )
        if self.declared_items is not None:
            missing_ids = np.setdiff1d(self.item_ids, self.declared_items)
            if missing_ids.size:
                raise DataError(
                    f"{self.name}: item {missing_ids[0]!r} is not among the "
                    f"{self.declared_items.size} declared items"
                )

    def _check_codes(self, side: str, code_E, ids, features) -> None:
        """Checks one side's codes, ids and features against each other."""
        if ids.ndim != 1 or (ids.dtype != np.int64 and ids.dtype.kind != "U"):
            raise DataError(
                f"{self.name}: {side}_ids is {ids.dtype} {ids.shape}; expected int64 or str, 1-d"
            )
        if ids.size > LIMIT or not (ids[1:] > ids[:-1]).all():
            raise DataError(f"{self.name}: {side}_ids are not sorted and unique")
        low, high = int(code_E.min()), int(code_E.max())
        if low < 0 or high >= ids.size:
            raise DataError(
                f"{self.name}: {side} codes span {low}..{high}; expected 0..{ids.size - 1}"
            )
        if features is not None and (
            features.ndim != 2 or len(features) != ids.size or features.dtype != np.float32
        ):
            raise DataError(
                f"{self.name}: {side}_features is {features.dtype} {features.shape}; "
                f"expected float32 ({ids.size}, F)"
            )

    @property
    def num_events(self) -> int:
        return len(self.user_E)

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @classmethod
    def from_ids(
        cls,
        user: Sequence[Any] | np.ndarray | pl.Series,
        item: Sequence[Any] | np.ndarray | pl.Series,
        time: Sequence[int] | np.ndarray | pl.Series | None = None,
        rating: Sequence[float] | np.ndarray | pl.Series | None = None,
        *,
        name: str = "log",
        **fields: Any,
    ) -> "Interactions":
        """Builds a log from columns of original ids.

        Args:
          user: [E] ids, integers or strings, one per event, in file order.
          item: [E] ids.
          time: [E] unix seconds, or None where only the order is known.
          rating: [E] finite numbers, or None.
          name: label in reports and errors.
          **fields: further fields of `Interactions`, such as `counts`.

        Returns:
          The log. Nothing is dropped or re-ordered.

        Raises:
          DataError: if a column is empty, of another length, or holds an empty id.
        """
        user_E, user_ids = encode_ids(user, f"{name}: user ids")
        item_E, item_ids = encode_ids(item, f"{name}: item ids")
        time_E = np.arange(len(user_E)) if time is None else _column(time, f"{name}: times")
        if time_E.dtype.kind not in "iu":
            raise DataError(f"{name}: times are {time_E.dtype}; expected integers (unix seconds)")
        rating_E = None if rating is None else _column(rating, f"{name}: ratings")
        return cls(
            user_E=user_E,
            item_E=item_E,
            time_E=time_E.astype(np.int64),
            rating_E=None if rating_E is None else rating_E.astype(np.float32),
            user_ids=user_ids,
            item_ids=item_ids,
            name=name,
            has_time=time is not None,
            **fields,
        )


def _column(values: Any, place: str) -> np.ndarray:
    """A numeric column as a NumPy array."""
    array = values.to_numpy() if isinstance(values, pl.Series) else np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{place} are {array.dtype}; expected numbers")
    return array


def drop_duplicates(log: Interactions) -> Interactions:
    """Drops exact repeats (user, item, time and rating) of earlier rows, and counts them.

    Without times the row number is no part of the comparison. Only rated logs are changed: there a
    repeat says the same thing twice, while in a log of plays it is another play.

    Args:
      log: the log as read.

    Returns:
      The log with the first of each group of equal rows, `counts['duplicates']` set.
    """
    if log.rating_E is None:
        return log
    # Only rows whose 64-bit hash comes twice are compared: sorting one column is all others cost.
    hash_E = _hash(log)
    sorted_E = np.sort(hash_E)
    repeated = np.unique(sorted_E[1:][sorted_E[1:] == sorted_E[:-1]])
    candidate_C = np.flatnonzero(_is_in(hash_E, repeated))
    columns = {"user": log.user_E[candidate_C], "item": log.item_E[candidate_C]}
    columns["rating"] = log.rating_E[candidate_C]
    if log.has_time:
        columns["time"] = log.time_E[candidate_C]
    drop_C = ~pl.DataFrame(columns).select(pl.struct(pl.all()).is_first_distinct()).to_series()
    keep_E = np.ones(log.num_events, bool)
    keep_E[candidate_C[drop_C.to_numpy()]] = False
    dropped = log.num_events - int(keep_E.sum())
    counts = dict(log.counts) | {"duplicates": dropped}
    if not dropped:
        return dataclasses.replace(log, counts=counts)
    return dataclasses.replace(
        log,
        user_E=log.user_E[keep_E],
        item_E=log.item_E[keep_E],
        time_E=log.time_E[keep_E],
        rating_E=log.rating_E[keep_E],
        counts=counts,
    )


def _hash(log: Interactions) -> np.ndarray:
    """One uint64 per event, equal for equal rows: the finaliser of splitmix64 over the columns."""
    columns = [log.item_E, log.rating_E.view(np.int32)] + ([log.time_E] if log.has_time else [])
    hash_E = log.user_E.astype(np.uint64)
    for column_E in columns:
        hash_E *= np.uint64(0x9E3779B97F4A7C15)
        hash_E ^= column_E.astype(np.uint64)
        hash_E ^= hash_E >> np.uint64(30)
        hash_E *= np.uint64(0xBF58476D1CE4E5B9)
        hash_E ^= hash_E >> np.uint64(27)
    return hash_E


def _is_in(value_E: np.ndarray, sorted_values: np.ndarray) -> np.ndarray:
    """Membership in a sorted array."""
    if not sorted_values.size:
        return np.zeros(value_E.shape, bool)
    place_E = np.searchsorted(sorted_values, value_E)
    return sorted_values[np.minimum(place_E, sorted_values.size - 1)] == value_E


class Statistics(NamedTuple):
    """A row of the paper's table 2: counts, and the share of (user, item) cells that are filled."""

    users: int
    items: int
    interactions: int
    density: float


def statistics(log: Interactions, min_rating: float = -np.inf) -> Statistics:
    """Counts users, items and events among the events rated `min_rating` or better.

    Args:
      log: any log; in one without ratings every event counts.
      min_rating: lowest rating that counts.

    Returns:
      The counts; density is interactions / (users * items), as in the paper's table 2.
    """
    user_E, item_E = log.user_E, log.item_E
    if log.rating_E is not None:
        counted_E = log.rating_E >= min_rating
        user_E, item_E = user_E[counted_E], item_E[counted_E]
    users = int(np.count_nonzero(np.bincount(user_E, minlength=1)))
    items = int(np.count_nonzero(np.bincount(item_E, minlength=1)))
    return Statistics(users, items, user_E.size, user_E.size / max(users * items, 1))
