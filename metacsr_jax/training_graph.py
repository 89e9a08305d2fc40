"""The graph that models may learn from: the training events of a protocol, checked against what is held out."""

import numpy as np

from metacsr_jax.audit import check_graph
from metacsr_jax.graph import DiffusionInputs, interaction_graph, make_inputs
from metacsr_jax.protocol import Protocol, training_events


def training_graph(protocol: Protocol) -> DiffusionInputs:
    """Builds the graph of the regular users' training events, with the features of the log, on the host.

    Raises:
        LeakError: a held-out event would be an edge.
    """
    training = training_events(protocol)
    num_users, num_items = training.user_R.size, protocol.num_items
    row_F = np.repeat(np.arange(num_users), np.diff(training.offset_R1))
    check_graph(protocol, training.user_R[row_F], training.item_F)
    graph = interaction_graph(row_F, training.item_F, num_users, num_items)
    user_features = protocol.user_features
    return make_inputs(
        graph,
        num_users,
        num_items,
        protocol.item_features,
        None if user_features is None else user_features[training.user_R],
    )
