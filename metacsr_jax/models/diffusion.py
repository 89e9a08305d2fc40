"""Diffusion Representer (paper: section 3.1, algorithm 1).

Dimension key: R users in the graph, I items, D = dim.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metacsr_jax.config import ModelConfig
from metacsr_jax.graph import Candidates, DiffusionInputs, aggregate_items, aggregate_users
from metacsr_jax.models.products import product_of_layer
from metacsr_jax.neighbourhood import Neighbourhood, aggregate_drawn
from metacsr_jax.parallel import ROW_MULTIPLE

ROWS_AT_ONCE = 1 << 17  # drawn for a table: bits and normals of all rows take three times its size
NORM_EPSILON = 1e-12  # inside the root of algorithm 1, line 4: ReLU can leave a row of zeros


class ItemTable(NamedTuple):
    """What the rest of the model knows of the items.

    Attributes:
        vector_ID: f_i^* of every catalogue item.
        bias_I: score added to every user's (zeros where the model has no item bias).
        candidates: rows that stand for the catalogue in the loss, or None.
    """

    vector_ID: jax.Array
    bias_I: jax.Array
    candidates: Candidates | None = None


class Convolve(nn.Module):
    """Algorithm 1, lines 2 to 4, with weights shared by users and items.

    f_la = ReLU(W1 h + b1);  f = ReLU(W2 [f_in, f_la] + b2);  f* = f / ||f||.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, feature_ND: jax.Array, aggregated_ND: jax.Array) -> jax.Array:
        config, dim = self.config, self.config.dim
        layer = partial(nn.Dense, dim, dot_general=product_of_layer)
        latent_ND = nn.relu(layer(name="W1")(aggregated_ND))
        out_ND = layer(name="W2")(jnp.concatenate([feature_ND, latent_ND], axis=-1))
        if config.node_residual:
            out_ND = feature_ND + out_ND
        if config.node_relu:
            out_ND = nn.relu(out_ND)
        if config.node_norm:
            square_N1 = jnp.sum(out_ND**2, axis=-1, keepdims=True)
            out_ND = out_ND * jax.lax.rsqrt(square_N1 + NORM_EPSILON)
        return out_ND


class DiffusionRepresenter(nn.Module):
    """Item representations from ids, optional attributes and the graph (eq. 1).

    Attributes:
        config: hops, aggregator, and which parts of algorithm 1 are on.
        num_users: R, users in the graph.
        num_items: I.
    """

    config: ModelConfig
    num_users: int
    num_items: int

    @nn.compact
    def __call__(self, inputs: DiffusionInputs) -> ItemTable:
        """Returns the table of item vectors; `inputs` as in `graph.DiffusionInputs`."""
        config = self.config
        item_ID = self._table("item_embedding", self.num_items)
        if inputs.item_features_IF is not None:
            project = nn.Dense(config.dim, use_bias=False, name="item_features")
            item_ID = item_ID + project(inputs.item_features_IF)
        if config.diffusion:
            user_RD = self._table("user_embedding", self.num_users)
            if inputs.user_features_RF is not None:
                project = nn.Dense(config.dim, use_bias=False, name="user_features")
                user_RD = user_RD + project(inputs.user_features_RF)
            for hop in range(1, config.hops + 1):
                convolve = Convolve(config, name=f"hop{hop}")
                to_item_ID = aggregate_items(inputs, user_RD, self.num_items, config.aggregator)
                new_item_ID = convolve(item_ID, to_item_ID)
                if hop < config.hops:  # nothing reads the users after the last hop
                    to_user_RD = aggregate_users(inputs, item_ID, self.num_users, config.aggregator)
                    user_RD = convolve(user_RD, to_user_RD)
                item_ID = new_item_ID
        bias_I = jnp.zeros(self.num_items)
        if config.item_bias:
            degree_I = inputs.graph.nodes["degree"][self.num_users :]
            bias_I = self.param("item_bias", lambda _: _centred_log(degree_I))
        return ItemTable(item_ID, bias_I)

    def _table(self, name: str, rows: int) -> jax.Array:
        """A parameter of `rows` vectors; to be split over devices it has rows of zeros behind them."""
        config = self.config
        draw = nn.initializers.normal(config.init_scale / config.dim**0.5)
        short = -rows % ROW_MULTIPLE if config.tables == "rows" else 0

        def init(key):
            if rows <= ROWS_AT_ONCE or config.tables == "rows":  # the latter is drawn where it lies
                return jnp.pad(draw(key, (rows, config.dim)), ((0, short), (0, 0)))
            return draw_by_blocks(draw, key, (rows, config.dim), ROWS_AT_ONCE)

        return self.param(name, init)[:rows]


def draw_by_blocks(draw, key: jax.Array, shape: tuple[int, int], block: int) -> jax.Array:
    """A table of independent rows, drawn some at a time so that little more than the table itself is held.

    Args:
        draw: rows from a key and a shape, as `flax.linen.initializers` have them.
        key: a random key; each block has one of its own.
        shape: rows, at least `block`, and columns.
        block: rows drawn at once.
    """
    rows, columns = shape
    key_B = jax.random.split(key, -(-rows // block))

    def write(number, table_ND):
        start = jnp.minimum(number * block, rows - block)  # the last block goes over the one before
        return jax.lax.dynamic_update_slice(
            table_ND, draw(key_B[number], (block, columns)), (start, 0)
        )

    return jax.lax.fori_loop(0, key_B.shape[0], write, jnp.zeros(shape))


def represent_drawn(config: ModelConfig, theta_1: dict, near: Neighbourhood) -> ItemTable:
    """What `DiffusionRepresenter` computes, for some items and from drawn neighbours.

    Args:
        config: as there.
        theta_1: its parameters, of the tables only the rows `near.rows`.
        near: what was drawn.

    Returns:
        Vectors and biases of the items `near.last_M`, in that order.
    """

    def start(side: str, feature):
        vector = theta_1[f"{side}_embedding"]
        return (
            vector if feature is None else vector + feature @ theta_1[f"{side}_features"]["kernel"]
        )

    item_MD = start("item", near.item_features_MF)
    user_SD = start("user", near.user_features_SF) if near.hops else None
    for number, hop in enumerate(near.hops, 1):
        convolve = partial(Convolve(config).apply, {"params": theta_1[f"hop{number}"]})
        to_item_MD = aggregate_drawn(hop.items, user_SD, config.aggregator)
        new_item_MD = convolve(item_MD[hop.items.own_M], to_item_MD)
        if hop.users is not None:
            to_user_SD = aggregate_drawn(hop.users, item_MD, config.aggregator)
            user_SD = convolve(user_SD[hop.users.own_M], to_user_SD)
        item_MD = new_item_MD
    bias_M = jnp.zeros(near.last_M.size)
    if config.item_bias:
        bias_M = theta_1["item_bias"].at[near.last_M].get(mode="clip")
    return ItemTable(item_MD, bias_M)


def _centred_log(degree_I: jax.Array) -> jax.Array:
    log_I = jnp.log1p(degree_I)
    return log_I - jnp.mean(log_I)
