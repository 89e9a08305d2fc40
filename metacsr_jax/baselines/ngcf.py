"""NGCF: graph convolutions with a product of a node and what it hears (Wang, He, Wang, Feng, Chua, SIGIR 2019).

M^l = A E^l, E^l+1 = LeakyReLU_0.2(M^l W1 + b1 + (E^l * M^l) W2 + b2), message dropout; a node's vector is E^0 and its L2-normalised
E^1..E^3 in a line. A = D^-1/2 (Adj + 1) D^-1/2, or D^-1 (Adj + 1) with `adjacency=mean`. Besides the whole graph it is here for
one user whose edges are taken out of it or given as a list: `metacsr_jax.baselines.metacf` says why.

Dimension key: R users, I items, D = width, X items of a task.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.few_shot import apply_dense
from metacsr_jax.baselines.sequence import dropped
from metacsr_jax.config import MetaCFConfig
from metacsr_jax.graph import DiffusionInputs, aggregate_items, aggregate_users
from metacsr_jax.negatives import is_known
from metacsr_jax.tasks import Histories

Params = dict[str, Any]  # user [D], item [I, D], layers


class GraphData(NamedTuple):
    """histories and graph of the regular users, on the device."""

    histories: Histories
    inputs: DiffusionInputs


class Messages(NamedTuple):
    """What the whole graph says under the unadapted theta.

    Attributes:
        to_item: per layer, what an item's users send it, sum_u A_iu E_u^l, [I, D].
        user: per layer, E_u^l, [R, D].
    """

    to_item: tuple[jax.Array, ...]
    user: tuple[jax.Array, ...]


def propagate(layer: Params, own_XD: jax.Array, message_XD: jax.Array) -> jax.Array:
    """One layer of NGCF."""
    total = apply_dense(layer["sum"], message_XD) + apply_dense(
        layer["product"], own_XD * message_XD
    )
    return jax.nn.leaky_relu(total, 0.2)


def final_vector(of_layers: list[jax.Array]) -> jax.Array:
    """E^0 and the normalised E^1.. side by side."""

    def unit(x):
        return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)

    return jnp.concatenate([of_layers[0], *map(unit, of_layers[1:])], axis=-1)


def degrees(inputs: DiffusionInputs, users: int) -> tuple[jax.Array, jax.Array]:
    """Degrees of users and items with the loop to themselves."""
    degree_N = jnp.asarray(inputs.graph.nodes["degree"]) + 1.0
    return degree_N[:users], degree_N[users:]


def send(inputs, user_RD, item_ID, own: MetaCFConfig):
    """What neighbours send: A E without the loops, to items and to users."""
    degree_R, degree_I = degrees(inputs, user_RD.shape[0])
    half = 0.5 if own.adjacency == "symmetric" else 0.0
    whole = 1.0 - half
    scaled_RD, scaled_ID = (
        user_RD * degree_R[:, None] ** -half,
        item_ID * degree_I[:, None] ** -half,
    )
    to_item_ID = aggregate_items(inputs, scaled_RD, item_ID.shape[0], "sum")
    to_user_RD = aggregate_users(inputs, scaled_ID, user_RD.shape[0], "sum")
    return to_item_ID * degree_I[:, None] ** -whole, to_user_RD * degree_R[:, None] ** -whole


def whole_graph(
    theta: Params, inputs: DiffusionInputs, own: MetaCFConfig, key: jax.Array | None = None
) -> Messages:
    """Runs NGCF over all nodes; with a key, which is consumed, messages are dropped out."""
    users = inputs.graph.nodes["degree"].shape[0] - theta["item"].shape[0]
    degree_R, degree_I = degrees(inputs, users)
    user_RD = jnp.broadcast_to(theta["user"], (users, own.width))
    item_ID = theta["item"]
    to_item, of_user = [], []
    for n, layer in enumerate(theta["layers"]):
        to_item_ID, to_user_RD = send(inputs, user_RD, item_ID, own)
        to_item.append(to_item_ID)
        of_user.append(user_RD)
        if n + 1 < own.layers:
            keys = (None, None)
            if key is not None:
                keys = jax.random.split(jax.random.fold_in(key, n))
            message_ID = to_item_ID + item_ID / degree_I[:, None]
            message_RD = to_user_RD + user_RD / degree_R[:, None]
            item_ID = dropped(keys[0], own.dropout, propagate(layer, item_ID, message_ID))
            user_RD = dropped(keys[1], own.dropout, propagate(layer, user_RD, message_RD))
    return Messages(tuple(to_item), tuple(of_user))


class Surroundings(NamedTuple):
    """What items hear in the graph without one user, all that a task needs of the whole graph.

    Attributes:
        item_X: the items.
        degree_X: their degrees without the user.
        message_X: per layer, what their other users send them, [X, D].
    """

    item_X: jax.Array
    degree_X: jax.Array
    message_X: tuple[jax.Array, ...]


def surroundings(
    messages: Messages, data: GraphData, own: MetaCFConfig, row, item_X
) -> Surroundings:
    """Takes the edges of the user `row` out of what the graph sends to items; nothing of it is adapted."""
    users = messages.user[0].shape[0]
    degree_R, degree_I = degrees(data.inputs, users)
    safe = jnp.maximum(row, 0)
    items = messages.to_item[0].shape[0]
    linked_X = is_known(data.histories.known, safe[None], item_X[None], items)[0] & (row >= 0)
    degree_X = degree_I[item_X] - linked_X
    half = 0.5 if own.adjacency == "symmetric" else 0.0
    before_X1 = degree_I[item_X][:, None] ** (1.0 - half)
    after_X1 = degree_X[:, None] ** (half - 1.0)
    rest = []
    for to_item_ID, user_RD in zip(messages.to_item, messages.user, strict=True):
        from_user_D = user_RD[safe] * degree_R[safe] ** -half
        rest_XD = to_item_ID[item_X] * before_X1 - jnp.outer(linked_X, from_user_D)
        rest.append(rest_XD * after_X1)
    return Surroundings(item_X, degree_X, tuple(rest))


def layers_of(theta: Params, own_XD: jax.Array, around: Surroundings) -> list[jax.Array]:
    """E^0.. of items under theta', from their own rows and their surroundings."""
    layers = [own_XD]
    for layer, rest_XD in zip(theta["layers"], around.message_X, strict=True):
        message_XD = rest_XD + own_XD / around.degree_X[:, None]
        own_XD = propagate(layer, own_XD, message_XD)
        layers.append(own_XD)
    return layers


def item_layers(
    theta: Params, messages: Messages, data: GraphData, own: MetaCFConfig, row, item_X
) -> tuple[list[jax.Array], jax.Array]:
    """Items under theta' in the graph without the edges of the user `row`: E^0.. of each, and their degrees."""
    around = surroundings(messages, data, own, row, item_X)
    return layers_of(theta, theta["item"][item_X], around), around.degree_X


def user_vector(
    theta: Params,
    own: MetaCFConfig,
    neighbour: list[jax.Array],
    degree_X: jax.Array,
    weight_X: jax.Array,
) -> jax.Array:
    """The user from weighted edges to items.

    Args:
        theta: adapted.
        own: settings.
        neighbour: E^0.. of the items, [X, D] each.
        degree_X: their degrees without this user.
        weight_X: of the edges; 0: none.
    """
    degree = 1.0 + jnp.sum(weight_X)
    other_X = degree_X + weight_X if own.adjacency == "symmetric" else degree
    share_X = weight_X / jnp.sqrt(degree * other_X)
    vector_D = theta["user"]
    layers = [vector_D]
    for layer, item_XD in zip(theta["layers"], neighbour[:-1], strict=True):
        message_D = share_X @ item_XD + vector_D / degree
        vector_D = propagate(layer, vector_D, message_D)
        layers.append(vector_D)
    return final_vector(layers)
