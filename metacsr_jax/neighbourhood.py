"""What one step touches of a big graph: neighbours drawn hop by hop, rows of the tables taken out and put back.

The cost of a step does not grow with the graph: neighbours are read from its CSR arrays on the device, and the tables are only
touched where a drawn node has its row (Hamilton et al., "Inductive representation learning on large graphs", 2017, algorithm 2).

Dimension key: R users in the graph, I items, N = R + I nodes; C codes of a batch, M items and S users of a hop, F = fan-out, D = dim.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metacsr_jax.config import Config, ModelConfig
from metacsr_jax.graph import Candidates, DiffusionInputs
from metacsr_jax.parallel import is_table
from metacsr_jax.tasks import scale


class Drawn(NamedTuple):
    """Neighbours of nodes.

    Attributes:
        own_M: int32, where each node stands among the nodes of the hop before.
        near_MF: int32, where its neighbours stand among the other side's.
        there_MF: bool, False where it has fewer than F neighbours; all of them are there then.
        degree_M: int32, how many it has.
    """

    own_M: jax.Array
    near_MF: jax.Array
    there_MF: jax.Array
    degree_M: jax.Array


class Hop(NamedTuple):
    """One hop of diffusion over drawn neighbours; `users` is None at the last, which nobody reads."""

    items: Drawn
    users: Drawn | None


class Neighbourhood(NamedTuple):
    """What the Diffusion Representer reads in place of `DiffusionInputs`.

    Attributes:
        item_M: int32 codes of the items before the first hop, the rows of theta_1's item table; I: no item.
        user_S: int32 codes of the users; R: no user.
        last_M: int32 codes of the items after the last hop, in the order of the table that comes out.
        hops: first hop first.
        item_features_MF: attributes of `item_M`, or None.
        user_features_SF: attributes of `user_S`, or None.
        candidates: as in `DiffusionInputs`, places in `last_M`.
    """

    item_M: jax.Array
    user_S: jax.Array
    last_M: jax.Array
    hops: tuple[Hop, ...]
    item_features_MF: jax.Array | None
    user_features_SF: jax.Array | None
    candidates: Candidates | None

    @property
    def rows(self) -> dict[str, jax.Array]:
        """The rows of each table that are in use."""
        return {"item_embedding": self.item_M, "user_embedding": self.user_S}


def reads_part(config: Config) -> bool:
    """Whether a training step reads drawn neighbours and single rows instead of the whole graph and its tables."""
    return bool(config.model.fan_out) or config.optimizer.lazy


def draw_places(key: jax.Array, size_B: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Distinct places 0 to size - 1 of each row, every one equally likely; all of them where there are not more than `count`.

    One from each of `count` equal stretches, all turned by the same random amount.

    Args:
        key: consumed.
        size_B: int32, 0 or more.
        count: places to draw.

    Returns:
        int32 [B, count], and bool [B, count]: whether there is such a place.
    """
    jitter_key, turn_key = jax.random.split(key)
    slot_K = jnp.arange(count, dtype=jnp.int32)[None]
    size_B1 = size_B[:, None]
    low_BK = scale(slot_K, size_B1, count)
    high_BK = jnp.maximum(scale(slot_K + 1, size_B1, count), low_BK + 1)
    place_BK = jax.random.randint(jitter_key, low_BK.shape, low_BK, high_BK)
    before_B1 = size_B1 - jax.random.randint(turn_key, size_B1.shape, 0, jnp.maximum(size_B1, 1))
    # place + turn modulo size, without passing 2^31
    turned_BK = jnp.where(
        place_BK >= before_B1, place_BK - before_B1, place_BK + (size_B1 - before_B1)
    )
    few_B1 = size_B1 <= count
    return jnp.where(few_B1, slot_K, turned_BK), ~few_B1 | (slot_K < size_B1)


def draw_candidates(key: jax.Array, num_items: int, count: int) -> Candidates:
    """Distinct items, uniformly, that stand for the catalogue in a softmax; the key is consumed."""
    count = min(count, num_items)
    place_1N, _ = draw_places(key, jnp.full(1, num_items, jnp.int32), count)
    return Candidates(place_1N[0], jnp.float32(num_items))


def distinct(code_C: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Sorted distinct codes, filled up with `rows`, and where each code stands among them."""
    if code_C.size >= rows:
        return jnp.arange(rows, dtype=jnp.int32), code_C
    id_M, place_C = jnp.unique(code_C, size=code_C.size, fill_value=rows, return_inverse=True)
    return id_M, place_C.reshape(-1).astype(jnp.int32)


def surround(
    key: jax.Array,
    inputs: DiffusionInputs,
    config: ModelConfig,
    num_users: int,
    num_items: int,
    code_C: jax.Array,
) -> tuple[Neighbourhood, jax.Array]:
    """Draws what the representations of some items need.

    Args:
        key: consumed.
        inputs: the whole graph, with `start_N1`.
        config: `fan_out` says how many neighbours to draw at each hop, the last hop's last.
        num_users: R.
        num_items: I.
        code_C: int32 codes of the items, repeats allowed.

    Returns:
        The neighbourhood, and the place of each code in the table of items that it leads to.
    """
    last_M, place_C = distinct(code_C, num_items)
    item_M, user_S = last_M, jnp.zeros(0, jnp.int32)
    hops: list[Hop] = []
    sizes = (num_users, num_items)
    for fan_out in reversed(config.fan_out if config.diffusion else ()):
        key, item_key, user_key = jax.random.split(key, 3)
        is_last = not hops
        user_MF, there_MF, degree_M = _neighbours(item_key, inputs, item_M, sizes, fan_out)
        new_user_S, place = distinct(jnp.concatenate([user_S, user_MF.reshape(-1)]), num_users)
        own_S, near_MF = place[: user_S.size], place[user_S.size :].reshape(user_MF.shape)
        own_M, users, new_item_M = jnp.arange(item_M.size), None, item_M
        if not is_last:
            item_SF, seen_SF, degree_S = _neighbours(
                user_key, inputs, user_S, sizes, fan_out, of_users=True
            )
            new_item_M, place = distinct(jnp.concatenate([item_M, item_SF.reshape(-1)]), num_items)
            own_M = place[: item_M.size]
            users = Drawn(own_S, place[item_M.size :].reshape(item_SF.shape), seen_SF, degree_S)
        hops.insert(0, Hop(Drawn(own_M, near_MF, there_MF, degree_M), users))
        item_M, user_S = new_item_M, new_user_S
    features = (inputs.item_features_IF, inputs.user_features_RF)
    item_features, user_features = (
        None if table is None else jnp.take(table, code, axis=0, mode="clip")
        for table, code in zip(features, (item_M, user_S), strict=True)
    )
    near = Neighbourhood(item_M, user_S, last_M, tuple(hops), item_features, user_features, None)
    return near, place_C


def _neighbours(key, inputs, code_M, sizes, fan_out, *, of_users=False):
    """Codes of drawn neighbours on the other side, which of them exist, and degrees."""
    graph, start_N1 = inputs.graph, inputs.start_N1
    (num_users, num_items), nodes = sizes, sum(sizes)
    own, other = (num_users, num_items) if of_users else (num_items, num_users)
    first, offset = (0, num_users) if of_users else (num_users, 0)
    node_M = jnp.where(code_M < own, first + code_M, nodes)  # that of no row has no edges
    start_M = start_N1[node_M]
    degree_M = start_N1[jnp.minimum(node_M + 1, nodes)] - start_M
    place_MF, there_MF = draw_places(key, degree_M, fan_out)
    edge_MF = jnp.where(there_MF, start_M[:, None] + place_MF, 0)
    near_MF = jnp.where(there_MF, graph.senders[edge_MF] - offset, other)
    return near_MF, there_MF, degree_M


def aggregate_drawn(drawn: Drawn, sender_SD: jax.Array, aggregator: str) -> jax.Array:
    """AGG over drawn neighbours (algorithm 1, line 1): an unbiased estimate of mean and sum, the maximum of what was drawn.

    Args:
        drawn: of M nodes.
        sender_SD: vectors of the other side.
        aggregator: mean, max or sum.

    Returns:
        [M, D]; zeros for nodes without neighbours.
    """
    message_MFD = sender_SD.at[drawn.near_MF].get(mode="clip")
    there_MF1 = drawn.there_MF[..., None]
    count_M1 = jnp.sum(drawn.there_MF, axis=1, keepdims=True)
    if aggregator == "max":
        most_MD = jnp.max(jnp.where(there_MF1, message_MFD, -jnp.inf), axis=1)
        return jnp.where(count_M1 > 0, most_MD, 0.0)
    mean_MD = jnp.sum(jnp.where(there_MF1, message_MFD, 0.0), axis=1) / jnp.maximum(count_M1, 1)
    return mean_MD * drawn.degree_M[:, None] if aggregator == "sum" else mean_MD


def take_rows(tree: Any, rows: dict[str, jax.Array]) -> Any:
    """A state, or a part of it, with only some rows of its tables and of their moments."""

    def take(path, leaf):
        name = is_table(path, leaf)
        return jnp.take(leaf, rows[name], axis=0, mode="clip") if name else leaf

    return jax.tree_util.tree_map_with_path(take, tree)


def put_rows(tree: Any, taken: Any, rows: dict[str, jax.Array]) -> Any:
    """The state with the rows put back, and everything else from `taken`."""

    def put(path, leaf, part):
        name = is_table(path, leaf)
        return jnp.asarray(leaf).at[rows[name]].set(part, mode="drop") if name else part

    return jax.tree_util.tree_map_with_path(put, tree, taken)
