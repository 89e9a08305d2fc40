"""Views of a protocol: the cases of a scenario, and the events that may be learnt from.

Axes: see `record`.
"""

import difflib

import numpy as np

from metacsr_jax.errors import ConfigError
from metacsr_jax.protocol.record import (
    NEW,
    REGULAR,
    ROLE_OF_SCENARIO,
    VALIDATION,
    Cases,
    Protocol,
    Training,
)


def training_events(protocol: Protocol, transductive: bool = False) -> Training:
    """The regular users' events without the last one, which is the warm target.

    Args:
        protocol: the artefact.
        transductive: the contexts of validation and new users too, their targets left out: another protocol, in which those who are
            to be served are known while training.

    Returns:
        All events that may enter training samples and graph edges.
    """
    roles = (REGULAR, VALIDATION, NEW) if transductive else (REGULAR,)
    user_R = np.flatnonzero(np.isin(protocol.role_U, roles) & (np.diff(protocol.offset_U1) > 0))
    event_F, offset_R1 = prefix_events(protocol.offset_U1, user_R)
    return Training(
        user_R.astype(np.int32), offset_R1, protocol.item_E[event_F], protocol.time_E[event_F]
    )


def cases(protocol: Protocol, scenario: str) -> Cases:
    """The held-out cases of one scenario, ordered by user code.

    Args:
        protocol: the artefact.
        scenario: "cold" (new users), "warm" (regular users) or "validation" (pseudo-new users).

    Returns:
        Histories, targets, negatives, and whether the target is seen in training or repeated. N may
        be 0 for "validation".

    Raises:
        ConfigError: the scenario is unknown.
    """
    user_N = case_users(protocol.role_U, protocol.offset_U1, scenario)
    event_H, offset_N1 = prefix_events(protocol.offset_U1, user_N)
    last_N = protocol.offset_U1[user_N + 1] - 1
    target_N = protocol.item_E[last_N]
    item_H = protocol.item_E[event_H]

    seen_I = np.zeros(protocol.num_items, bool)
    seen_I[training_events(protocol).item_F] = True
    case_H = np.repeat(np.arange(len(user_N)), np.diff(offset_N1))
    same_H = item_H == target_N[case_H]
    return Cases(
        user_N=user_N.astype(np.int32),
        offset_N1=offset_N1,
        item_H=item_H,
        target_N=target_N,
        time_N=protocol.time_E[last_N],
        negative_NC=protocol.negative_NC[scenario],
        seen_N=seen_I[target_N],
        repeat_N=np.bincount(case_H[same_H], minlength=len(user_N)) > 0,
    )


def case_users(role_U: np.ndarray, offset_U1: np.ndarray, scenario: str) -> np.ndarray:
    """Codes of a scenario's users with at least two kept events, so with a history and a target."""
    if scenario not in ROLE_OF_SCENARIO:
        close = difflib.get_close_matches(scenario, ROLE_OF_SCENARIO, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"scenario: unknown value {scenario!r}; expected one of {', '.join(ROLE_OF_SCENARIO)}"
            + hint
        )
    return np.flatnonzero((role_U == ROLE_OF_SCENARIO[scenario]) & (np.diff(offset_U1) >= 2))


def prefix_events(offset_U1: np.ndarray, user_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all events but the last of each user given, and their CSR offsets."""
    length_N = offset_U1[user_N + 1] - offset_U1[user_N] - 1
    return csr_take(offset_U1[user_N], length_N)


def csr_take(start_N: np.ndarray, length_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices `start, start + 1, ...`, `length` of them per row, and the rows' offsets."""
    offset_N1 = np.zeros(len(length_N) + 1, np.int64)
    np.cumsum(length_N, out=offset_N1[1:])
    index_H = np.arange(offset_N1[-1]) + np.repeat(start_N - offset_N1[:-1], length_N)
    return index_H, offset_N1
