"""The records that every model reads: who is new, what is held out, against what it is ranked.

Axes: U users, I items, E events kept, N cases of a scenario, C negatives, H history events of all
cases (CSR), R regular users, F their training events (CSR), F also features where a name says so;
`offset_U1` has U + 1 entries and the events of user u are `offset_U1[u]:offset_U1[u + 1]`.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metacsr_jax.config import ProtocolConfig

REGULAR, VALIDATION, NEW, EXCLUDED = 0, 1, 2, 3
ROLE_NAMES = ("regular", "validation", "new", "excluded")
ROLE_OF_SCENARIO = types.MappingProxyType({"cold": NEW, "warm": REGULAR, "validation": VALIDATION})
SCENARIOS = tuple(ROLE_OF_SCENARIO)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One frozen reading of a log; built once, hashed, read by every model."""

    config: ProtocolConfig
    name: str  # of the data set
    item_ids: np.ndarray  # [I] the catalogue in original ids, sorted; item codes are 0..I-1
    user_ids: np.ndarray  # [U] original ids, sorted: users with at least one positive event
    role_U: np.ndarray  # uint8: REGULAR, VALIDATION, NEW or EXCLUDED
    offset_U1: np.ndarray  # int64, CSR over the events
    # Positive events of each user in order. The last one is the target, of regular users (warm) as
    # of validation and new users, of whom only the kept events are here; EXCLUDED users have none.
    item_E: np.ndarray  # int32 item codes
    time_E: np.ndarray  # int64 seconds (row numbers where the log has no time)
    negative_NC: Mapping[str, np.ndarray]  # scenario -> int32, rows in the order of `cases`
    mask_seen: bool  # whether the full ranking masks the items of the history
    item_features: np.ndarray | None  # float32 [I, F]
    user_features: np.ndarray | None  # float32 [U, F]
    manifest: Mapping[str, Any]  # counts, shares, seed, tie policy, SHA-256 of every array

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.item_ids)

    @property
    def num_users(self) -> int:
        """Users with a positive event, excluded ones included."""
        return len(self.user_ids)


class Cases(NamedTuple):
    """The N held-out cases of one scenario, ordered by user code."""

    user_N: np.ndarray  # int32 user codes, ascending
    offset_N1: np.ndarray  # int64, CSR over item_H
    item_H: np.ndarray  # int32: all events of the user before the target, in order
    target_N: np.ndarray  # int32 item codes
    time_N: np.ndarray  # int64, of the target
    negative_NC: np.ndarray  # int32, distinct items that the user never touched
    seen_N: np.ndarray  # bool: the target item is among the training events
    repeat_N: np.ndarray  # bool: the target item is in the case's own history


class Training(NamedTuple):
    """All events a model may learn from: those of regular users without the last one."""

    user_R: np.ndarray  # int32 user codes, ascending
    offset_R1: np.ndarray  # int64, CSR over item_F
    item_F: np.ndarray  # int32 item codes, in order per user
    time_F: np.ndarray  # int64
