"""Checks of what a model learns from: the protocol's own arrays, training samples, graph edges.

Axes: U users, E events, R regular users, F training events, G graph edges.
"""

import numpy as np

from metacsr_jax.audit.refusal import (
    check_offsets,
    check_range,
    member,
    name_event,
    name_role,
    refuse,
)
from metacsr_jax.errors import LeakError
from metacsr_jax.protocol import EXCLUDED, REGULAR, ROLE_NAMES, Protocol, Training, training_events
from metacsr_jax.sorting import unique


def check_protocol(protocol: Protocol) -> None:
    """Roles, offsets, codes, and that no event of a user lies at or after the target."""
    refuse(
        protocol.role_U > EXCLUDED,
        lambda user: (
            f"user {protocol.user_ids[user]!s} has role {protocol.role_U[user]}; expected"
            f" 0 to {EXCLUDED}"
        ),
    )
    order = np.argsort(protocol.user_ids, kind="stable")
    ids = protocol.user_ids[order]
    refuse(
        ids[1:] == ids[:-1],
        lambda place: (
            f"user {ids[place]!s} is twice in the protocol, as"
            f" {name_role(protocol, order[place])} and {name_role(protocol, order[place + 1])};"
            " expected one role per user"
        ),
    )
    check_offsets(protocol.offset_U1, protocol.num_users, len(protocol.item_E), "protocol")
    check_range(protocol, "protocol: item", protocol.item_E, protocol.num_items)
    length_U = np.diff(protocol.offset_U1)
    refuse(
        (protocol.role_U == EXCLUDED) & (length_U > 0),
        lambda user: (
            f"user {protocol.user_ids[user]!s} is excluded but has {length_U[user]}"
            " events; expected none"
        ),
    )
    user_E = np.repeat(np.arange(protocol.num_users), length_U)
    last_E = protocol.offset_U1[user_E + 1] - 1
    earlier_E = np.arange(len(user_E)) < last_E
    time_E, target_E = protocol.time_E, protocol.time_E[last_E]
    refuse(
        earlier_E & (time_E > target_E),
        lambda event: (
            f"{name_event(protocol, user_E[event], protocol.item_E[event], time_E[event])} is"
            f" before the target in order but later than its time {target_E[event]}"
        ),
    )
    refuse(
        earlier_E & (time_E == target_E) & (protocol.item_E == protocol.item_E[last_E]),
        lambda event: (
            f"{name_event(protocol, user_E[event], protocol.item_E[event], time_E[event])} is"
            " the target event and also among the events before it, so among the support"
        ),
    )


def check_training(protocol: Protocol, training: Training) -> None:
    """Only regular users' events, none of them held out."""
    user_R, offset_R1, item_F, time_F = training
    check_range(protocol, "training: user", user_R, protocol.num_users)
    check_range(protocol, "training: item", item_F, protocol.num_items)
    check_offsets(offset_R1, len(user_R), len(item_F), "training")
    if len(time_F) != len(item_F):
        raise LeakError(f"training: {len(time_F)} times for {len(item_F)} items; expected as many")
    refuse(
        protocol.role_U[user_R] != REGULAR,
        lambda row: (
            f"user {protocol.user_ids[user_R[row]]!s} is {name_role(protocol, user_R[row])} and"
            " also among the training users; expected regular users only"
        ),
    )
    user_F = np.repeat(user_R, np.diff(offset_R1)).astype(np.int64)

    def named(event: int) -> str:
        example = name_event(protocol, user_F[event], item_F[event], time_F[event])
        return f"training event {event}: {example}"

    last_F = protocol.offset_U1[user_F + 1] - 1
    held_item_F, held_time_F = protocol.item_E[last_F], protocol.time_E[last_F]
    refuse(
        (item_F == held_item_F) & (time_F == held_time_F),
        lambda event: f"{named(event)} is the held-out event of this user",
    )
    refuse(
        time_F > held_time_F,
        lambda event: f"{named(event)} is later than the held-out event at {held_time_F[event]}",
    )


def check_graph(protocol: Protocol, user_G: np.ndarray, item_G: np.ndarray) -> None:
    """Checks that every edge of the user-item graph stems from a training event.

    Args:
        protocol: the artefact.
        user_G: user codes of the protocol, shape [G]; a graph that numbers its users otherwise maps
            them back, such as `training.user_R[row_G]`.
        item_G: item codes, shape [G].

    Raises:
        LeakError: an edge belongs to a user who is not regular, to a held-out event, or to no
            training event.
    """
    check_range(protocol, "graph: user", user_G, protocol.num_users)
    check_range(protocol, "graph: item", item_G, protocol.num_items)
    role_G = protocol.role_U[user_G]
    refuse(
        role_G != REGULAR,
        lambda edge: (
            f"graph edge {edge}: {name_event(protocol, user_G[edge], item_G[edge])}, but the"
            f" user is {ROLE_NAMES[role_G[edge]]}; expected regular users only"
        ),
    )
    training = training_events(protocol)
    user_F = np.repeat(training.user_R.astype(np.int64), np.diff(training.offset_R1))
    pair_F = unique(user_F * protocol.num_items + training.item_F)
    known_G = member(user_G.astype(np.int64) * protocol.num_items + item_G, pair_F)
    last_U = np.maximum(protocol.offset_U1[1:] - 1, 0)

    def explain(edge: int) -> str:
        held_out = protocol.item_E[last_U[user_G[edge]]] == item_G[edge]
        what = "the held-out event" if held_out else "in no training event"
        example = name_event(protocol, user_G[edge], item_G[edge])
        return f"graph edge {edge}: {example} is {what}; expected edges of training events only"

    refuse(~known_G, explain)
