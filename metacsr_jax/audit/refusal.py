"""How the audit refuses: the first bad place, by original ids, and how many there are."""

from collections.abc import Callable

import numpy as np

from metacsr_jax.errors import LeakError
from metacsr_jax.protocol import ROLE_NAMES, Protocol


def check_range(protocol: Protocol, what: str, code: np.ndarray, size: int) -> None:
    """Codes lie in [0, size): on a device nothing would complain."""
    refuse(
        (code < 0) | (code >= size),
        lambda place: (
            f"{what} code {code[place]} at place {place} of {protocol.name}; expected 0"
            f" to {size - 1}"
        ),
    )


def check_offsets(offset: np.ndarray, rows: int, entries: int, what: str) -> None:
    """CSR offsets start at 0, never fall and end at the number of entries."""
    if len(offset) != rows + 1 or offset[0] or offset[-1] != entries or (np.diff(offset) < 0).any():
        raise LeakError(
            f"{what}: offsets do not cut {entries} events into {rows} rows; expected {rows + 1}"
            f" ascending numbers from 0 to {entries}"
        )


def refuse(bad: np.ndarray, explain: Callable[[int], str]) -> None:
    """Raises for the first bad place."""
    places = np.flatnonzero(bad)
    if len(places):
        raise LeakError(f"{explain(int(places[0]))} ({len(places)} such)")


def name_role(protocol: Protocol, user: int) -> str:
    """Name of a user's role."""
    return ROLE_NAMES[protocol.role_U[user]]


def name_event(protocol: Protocol, user: int, item: int, time: int | None = None) -> str:
    """An event by original ids."""
    at = "" if time is None else f" at {time}"
    return f"user {protocol.user_ids[user]!s}, item {protocol.item_ids[item]!s}{at}"


def member(values: np.ndarray, sorted_S: np.ndarray) -> np.ndarray:
    """Whether each value is in a sorted array."""
    if not len(sorted_S):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(sorted_S, values.ravel()), len(sorted_S) - 1)
    return (sorted_S[place] == values.ravel()).reshape(values.shape)
