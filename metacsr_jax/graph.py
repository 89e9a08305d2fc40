"""The user-item graph on the device, and aggregation over it.

Dimension key: E pairs, R users in the graph, I items, N = R + I nodes (users first), D features.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from metacsr_jax.errors import DataError
from metacsr_jax.kernels.native import usable
from metacsr_jax.kernels.rows import neighbour_sum
from metacsr_jax.sorting import unique

# Up to this many cells, and from this density on, a dense product beats gathering and scattering on CPU and GPU alike.
DENSE_CELLS = 64_000_000
DENSE_SHARE = 0.005


EDGES_AT_ONCE = 4_000_000  # of whose messages, [E, D], memory holds so many


class Candidates(NamedTuple):
    """Items that stand for the catalogue in a softmax.

    Attributes:
        code_N: int32, distinct, rows of the item table.
        items: float32 scalar, I, how many items they stand for.
    """

    code_N: jax.Array
    items: jax.Array


class DiffusionInputs(NamedTuple):
    """What the Diffusion Representer reads besides its parameters.

    Attributes:
        graph: both directions of every distinct (user, item) pair, sorted by receiver: the first half of the edges runs
            from items to users, the second half from users to items. `nodes["degree"]` is float32 [N].
        adjacency_IR: the same pairs as a dense 0/1 matrix where that is the faster form, else None.
        item_features_IF: float32 attributes of items, or None.
        user_features_RF: float32 attributes of the graph's users, or None.
        start_N1: int32, where each node's edges begin in `graph` (and where the last one's end), or None.
        candidates: for `loss.candidates`, else None.
    """

    graph: jraph.GraphsTuple
    adjacency_IR: jax.Array | None
    item_features_IF: jax.Array | None = None
    user_features_RF: jax.Array | None = None
    start_N1: jax.Array | None = None
    candidates: Candidates | None = None


def make_inputs(
    graph: jraph.GraphsTuple,
    num_users: int,
    num_items: int,
    item_features_IF: np.ndarray | None = None,
    user_features_RF: np.ndarray | None = None,
) -> DiffusionInputs:
    """The graph in every form that a step may want it in, on the host."""
    degree_N = np.bincount(graph.receivers, minlength=num_users + num_items)
    start_N1 = np.concatenate([[0], np.cumsum(degree_N)]).astype(np.int32)
    adjacency_IR = dense_adjacency(graph, num_users, num_items)
    return DiffusionInputs(graph, adjacency_IR, item_features_IF, user_features_RF, start_N1)


def interaction_graph(
    user_E: np.ndarray, item_E: np.ndarray, num_users: int, num_items: int
) -> jraph.GraphsTuple:
    """Builds the bipartite graph G of section 3.1 from events; repeated pairs make one edge.

    Args:
        user_E: user codes, 0 to num_users - 1.
        item_E: item codes, 0 to num_items - 1.
        num_users: R.
        num_items: I.

    Returns:
        A `GraphsTuple` of NumPy arrays with R + I nodes and two directed edges a pair, sorted by receiver.

    Raises:
        DataError: a code is out of range (on the device it would be dropped in silence), or ids do not fit int32.
    """
    for name, code_E, size in (("user", user_E, num_users), ("item", item_E, num_items)):
        bad = np.flatnonzero((code_E < 0) | (code_E >= size))
        if bad.size:
            raise DataError(
                f"graph: {name} code {code_E[bad[0]]} at edge {bad[0]}, expected 0 to {size - 1}"
            )
    if num_users + num_items > np.iinfo(np.int32).max:
        raise DataError(f"graph: {num_users + num_items} nodes do not fit 32-bit ids")
    if 2 * len(user_E) > np.iinfo(np.int32).max:
        raise DataError(f"graph: {len(user_E)} events, both ways, do not fit 32-bit positions")
    pair_E = unique(user_E.astype(np.int64) * num_items + item_E)
    user_E, item_E = pair_E // num_items, pair_E % num_items
    user_by_item_E = np.sort(item_E * num_users + user_E) % num_users
    degree_N = np.concatenate(
        [np.bincount(user_E, minlength=num_users), np.bincount(item_E, minlength=num_items)]
    )
    senders = np.concatenate([num_users + item_E, user_by_item_E])
    receivers = np.concatenate([user_E, num_users + np.sort(item_E)])
    return jraph.GraphsTuple(
        nodes={"degree": degree_N.astype(np.float32)},
        edges=None,
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        globals=None,
        n_node=np.array([num_users + num_items], np.int32),
        n_edge=np.array([senders.size], np.int32),
    )


def dense_adjacency(graph: jraph.GraphsTuple, num_users: int, num_items: int) -> np.ndarray | None:
    """The pairs as a float32 0/1 matrix [I, R], or None where it would be too large or too sparse to pay."""
    cells, pairs = num_users * num_items, graph.senders.size // 2
    if cells > DENSE_CELLS or pairs < DENSE_SHARE * cells:
        return None
    adjacency_IR = np.zeros((num_items, num_users), np.float32)
    adjacency_IR[graph.receivers[pairs:] - num_users, graph.senders[pairs:]] = 1.0
    return adjacency_IR


def aggregate_items(
    inputs: DiffusionInputs,
    user_RD: jax.Array,
    num_items: int,
    aggregator: Literal["mean", "max", "sum"],
) -> jax.Array:
    """AGG over each item's users (algorithm 1, line 1); items without users get zeros.

    Args:
        inputs: the graph, from users of `user_RD`'s order.
        user_RD: user vectors.
        num_items: I.
        aggregator: mean, max or sum.

    Returns:
        Aggregated vectors [I, D].
    """
    return _aggregate(inputs, user_RD, 0, num_items, aggregator, to_items=True)


def aggregate_users(
    inputs: DiffusionInputs,
    item_ID: jax.Array,
    num_users: int,
    aggregator: Literal["mean", "max", "sum"],
) -> jax.Array:
    """AGG over each user's items; as `aggregate_items`, the other way round. Returns [R, D]."""
    return _aggregate(inputs, item_ID, num_users, num_users, aggregator, to_items=False)


def _segments(sender_SD, sender_E, receiver_E, num_receivers, aggregator):
    """Sum or maximum of the senders' vectors by receiver, so many edges at a time that their messages fit into memory."""
    is_max = aggregator == "max"
    segment = jraph.segment_max if is_max else jraph.segment_sum
    if sender_E.shape[0] <= EDGES_AT_ONCE:
        return segment(sender_SD[sender_E], receiver_E, num_receivers, indices_are_sorted=True)
    short = -sender_E.shape[0] % EDGES_AT_ONCE
    sender_PE = jnp.pad(sender_E, (0, short)).reshape(-1, EDGES_AT_ONCE)
    receiver_PE = jnp.pad(receiver_E, (0, short), constant_values=num_receivers)  # dropped
    receiver_PE = receiver_PE.reshape(-1, EDGES_AT_ONCE)

    def add(total_ND, part):
        part_ND = segment(sender_SD[part[0]], part[1], num_receivers, indices_are_sorted=True)
        return (jnp.maximum(total_ND, part_ND) if is_max else total_ND + part_ND), None

    start_ND = jnp.full((num_receivers, sender_SD.shape[1]), -jnp.inf if is_max else 0.0)
    return jax.lax.scan(add, start_ND, (sender_PE, receiver_PE))[0]


def _by_kernel(inputs, sender_SD, num_users, to_items):
    half = inputs.graph.senders.shape[0] // 2
    of_items = (inputs.start_N1[num_users:] - half, inputs.graph.senders[half:])
    of_users = (inputs.start_N1[: num_users + 1], inputs.graph.senders[:half] - num_users)
    sides = (of_items, of_users) if to_items else (of_users, of_items)
    return neighbour_sum(sender_SD, *sides)


def _aggregate(inputs, sender_SD, sender_offset, num_receivers, aggregator, *, to_items):
    graph = inputs.graph
    num_users = graph.nodes["degree"].shape[0] - (num_receivers if to_items else sender_SD.shape[0])
    first = num_users if to_items else 0
    degree_N1 = graph.nodes["degree"][first : first + num_receivers, None]
    by_kernel = inputs.start_N1 is not None and usable(sender_SD, graph.senders)
    if aggregator != "max" and by_kernel:
        total_ND = _by_kernel(inputs, sender_SD, num_users, to_items)
    elif inputs.adjacency_IR is not None and aggregator != "max":
        adjacency = inputs.adjacency_IR if to_items else inputs.adjacency_IR.T
        total_ND = adjacency @ sender_SD
    else:
        half = graph.senders.shape[0] // 2
        edges = slice(half, None) if to_items else slice(0, half)
        sender_E, receiver_E = graph.senders[edges] - sender_offset, graph.receivers[edges] - first
        total_ND = _segments(sender_SD, sender_E, receiver_E, num_receivers, aggregator)
    if aggregator == "mean":
        return total_ND / jnp.maximum(degree_N1, 1.0)
    return jnp.where(degree_N1 > 0, total_ND, 0.0)
