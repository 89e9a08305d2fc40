"""The order of events: by time per user, ties by a seeded hash or by the row of the file.

Axes: P positive events in file order, E the same in order, T those of them that share user and time
with another.
"""

from typing import NamedTuple

import numpy as np

from metacsr_jax.protocol.hashing import hash_key, mix


class Ordered(NamedTuple):
    """Rows of the events in order."""

    row_E: (
        np.ndarray
    )  # int64 indices into the arrays given, sorted by user, then time, then the tie policy
    duplicates: int  # events dropped: user, item and time equal another's


def order_events(
    user_P: np.ndarray,
    item_P: np.ndarray,
    time_P: np.ndarray,
    user_hash_U: np.ndarray,
    item_hash_I: np.ndarray,
    *,
    tie_policy: str,
    seed: int,
) -> Ordered:
    """Sorts events by user and time and collapses those equal in user, item and time.

    With `tie_policy="hash"` the result depends on the set of events alone, not on the order of the
    rows: in MovieLens-1M most events share a timestamp, and their order in the file leaks.

    Args:
        user_P: user codes, shape [P].
        item_P: item codes, shape [P].
        time_P: int64 seconds, shape [P].
        user_hash_U: uint64 hash of each user's id, indexed by code.
        item_hash_I: uint64 hash of each item's id, indexed by code.
        tie_policy: "hash" (of seed, user, item and time) or "file" (row number).
        seed: of the hash.

    Returns:
        The rows in order, and how many were dropped as duplicates.
    """
    key_P = _user_time_key(user_P, time_P)
    row_E = np.argsort(key_P, kind="stable")
    key_E = key_P[row_E]
    del key_P
    equal = key_E[1:] == key_E[:-1]
    tied_E = np.zeros(len(row_E), bool)
    tied_E[1:] = equal
    tied_E[:-1] |= equal
    place_T = np.flatnonzero(tied_E)
    if not len(place_T):
        return Ordered(row_E, 0)

    key_T, row_T = key_E[place_T], row_E[place_T]
    del key_E, tied_E, equal
    item_T = item_P[row_T]
    if tie_policy == "hash":
        hash_T = mix(hash_key(seed, "ties") ^ mix(user_hash_U[user_P[row_T]]))
        hash_T = mix(hash_T ^ item_hash_I[item_T])
        hash_T = mix(hash_T ^ time_P[row_T].astype(np.int64).view(np.uint64))
        rank_T = np.lexsort((hash_T, key_T))
        row_E[place_T] = row_T[rank_T]
    else:
        rank_T = np.lexsort((item_T, key_T))  # stable: the first row of equal events stays first
    first_T = np.ones(len(rank_T), bool)
    first_T[1:] = (np.diff(key_T[rank_T]) != 0) | (np.diff(item_T[rank_T]) != 0)
    duplicates = len(first_T) - int(first_T.sum())
    if duplicates:
        keep_E = np.ones(len(row_E), bool)
        # Under the hash the tied events now lie in the order of rank_T, else as they did.
        keep_E[place_T if tie_policy == "hash" else place_T[rank_T]] = first_T
        row_E = row_E[keep_E]
    return Ordered(row_E, duplicates)


def _user_time_key(user_P: np.ndarray, time_P: np.ndarray) -> np.ndarray:
    """One int64 per event that sorts by user, then time."""
    first, last = int(time_P.min()), int(time_P.max())
    span = last - first + 1
    if (int(user_P.max()) + 1) * span >= 2**63:  # times too far apart: their ranks sort the same
        times, time_P = np.unique(time_P, return_inverse=True)
        first, span = 0, len(times)
    return user_P.astype(np.int64) * span + (time_P - first)
