"""Checks of the held-out cases: histories, targets, negatives.

Axes: N cases, H history events (CSR), C negatives, S touched (user, item) pairs, E events.
"""

import numpy as np

from metacsr_jax.audit.refusal import check_offsets, check_range, member, name_event, refuse
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import LeakError
from metacsr_jax.protocol import Cases, Protocol
from metacsr_jax.protocol.held_out import case_users

CASES_AT_ONCE = 65_536  # whose negatives are checked together: bounds memory


def check_histories(protocol: Protocol, scenario: str, found: Cases) -> None:
    """Each history is what the user did before the target, and the target is the last event."""
    user_N = case_users(protocol.role_U, protocol.offset_U1, scenario)
    if not np.array_equal(user_N, found.user_N):
        check_range(protocol, f"{scenario}: user", found.user_N, protocol.num_users)
        extra = np.setdiff1d(found.user_N, user_N)
        example = f", {protocol.user_ids[extra[0]]!s} among them," if len(extra) else ""
        raise LeakError(
            f"{scenario}: cases of {len(found.user_N)} users, {len(extra)} of them{example} of"
            f" another role; expected the {len(user_N)} users of the scenario in order"
        )
    start_N, last_N = protocol.offset_U1[user_N], protocol.offset_U1[user_N + 1] - 1
    check_offsets(found.offset_N1, len(user_N), len(found.item_H), scenario)
    refuse(
        (found.target_N != protocol.item_E[last_N]) | (found.time_N != protocol.time_E[last_N]),
        lambda case: (
            f"{scenario}: the target of user {protocol.user_ids[user_N[case]]!s} is not the"
            " last kept event"
        ),
    )
    length_N = np.diff(found.offset_N1)
    refuse(
        length_N > last_N - start_N,
        lambda case: (
            f"{scenario}: the history of user {protocol.user_ids[user_N[case]]!s} has"
            f" {length_N[case]} events, but {last_N[case] - start_N[case]} lie before the target,"
            f" {name_event(protocol, user_N[case], found.target_N[case], found.time_N[case])}"
        ),
    )
    check_range(protocol, f"{scenario}: history item", found.item_H, protocol.num_items)
    case_H = np.repeat(np.arange(len(user_N)), length_N)
    event_H = np.arange(len(case_H)) + (last_N - found.offset_N1[1:])[case_H]
    refuse(
        found.item_H != protocol.item_E[event_H],
        lambda place: (
            f"{scenario}: the history of user"
            f" {protocol.user_ids[user_N[case_H[place]]]!s} holds item"
            f" {protocol.item_ids[found.item_H[place]]!s} where the log has"
            f" {protocol.item_ids[protocol.item_E[event_H[place]]]!s}"
        ),
    )


def check_negatives(protocol: Protocol, scenario: str, found: Cases, pair_S: np.ndarray) -> None:
    """Distinct catalogue items that the user never touched, one row per case."""
    negative_NC, wanted = found.negative_NC, protocol.config.num_negatives
    if negative_NC.shape != (len(found.user_N), wanted):
        raise LeakError(
            f"{scenario}: negatives of shape {negative_NC.shape}; expected"
            f" {(len(found.user_N), wanted)}"
        )
    check_range(protocol, f"{scenario}: negative", negative_NC.ravel(), protocol.num_items)

    for start in range(0, len(found.user_N), CASES_AT_ONCE):
        part = slice(start, start + CASES_AT_ONCE)
        _check_part(
            protocol, scenario, found.user_N[part], found.target_N[part], negative_NC[part], pair_S
        )


def _check_part(protocol, scenario, user_n, target_n, negative_nC, pair_S):
    def refuse_where(bad_nC: np.ndarray, item_nC: np.ndarray, what: str) -> None:
        def explain(place: int) -> str:
            case, column = divmod(place, item_nC.shape[1])
            return (
                f"{scenario}: {name_event(protocol, user_n[case], item_nC[case, column])} is {what}"
            )

        refuse(bad_nC.ravel(), explain)

    refuse_where(negative_nC == target_n[:, None], negative_nC, "the target and a negative")
    sorted_nC = np.sort(negative_nC, axis=1)
    twice_nC = np.zeros(negative_nC.shape, bool)
    twice_nC[:, 1:] = sorted_nC[:, 1:] == sorted_nC[:, :-1]
    refuse_where(twice_nC, sorted_nC, "twice among the negatives")
    pair_nC = user_n.astype(np.int64)[:, None] * protocol.num_items + sorted_nC
    refuse_where(member(pair_nC, pair_S), sorted_nC, "a seen item among the negatives")


def touched_pairs(protocol: Protocol, log: Interactions | None) -> np.ndarray:
    """Sorted `user * I + item` of all that users did, in the full log where there is one."""
    if log is None:
        user_E = np.repeat(np.arange(protocol.num_users), np.diff(protocol.offset_U1))
        item_E = protocol.item_E
    else:
        user_E = _code_of(log.user_ids, protocol.user_ids)[log.user_E]
        item_E = _code_of(log.item_ids, protocol.item_ids)[log.item_E]
        known = (user_E >= 0) & (item_E >= 0)
        user_E, item_E = user_E[known], item_E[known]
    return np.sort(user_E * protocol.num_items + item_E)


def _code_of(ids: np.ndarray, known_ids: np.ndarray) -> np.ndarray:
    """Codes of ids in a sorted array of ids; -1 where unknown."""
    place = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    return np.where(known_ids[place] == ids, place, -1)
