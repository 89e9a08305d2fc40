"""MetaCF on NGCF: a user as a graph of a few edges, adapted with learned rates (Wei, Wu, Cao, Nie, Chua, et al., ICDM 2020).

The network is that of `metacsr_jax.baselines.ngcf`, a score the inner product.

A task plays a regular user as a new one: 1 to K of its items are the support, its other edges are taken out of the graph, the query is
among them. Potential interactions: items reached over the support's users (user - item - user' - item'), drawn in proportion to the
number of such paths, as many as support items, enter as edges of weight gamma. Inner: BPR on the support, the edge to the item being
scored masked, theta' = theta - alpha * gradient with a rate for every parameter, learned as its logarithm so that it stays positive.
Outer: second order, BPR on the query, for theta and alpha.

Reading: no user has an embedding of its own, all start from one learned row. Not a sampled subgraph for each of the candidates but the
whole graph: what an item's neighbours send it (A E^l without the item itself) is computed once per outer step under the unadapted
theta, and from it each task subtracts its user; the items' own transforms, the user's vector and all of the task's scores are under the
adapted theta'. Nothing that the user gathered comes back to its scores in up to three layers, hence the limit. What stays is
that its edges are counted: in the degrees by which other users weigh an item, and in E^1 of the item, of which a third layer hears over
other users (tests/test_metacf.py; a few tenths of a percent of a score on graphs of some hundred nodes). That touches training tasks
alone: new users have no edges, and held-out events are none. An item that a history repeats is one edge, and no query. A support
item does not hear back from the user. `adapt_embeddings` adapts the item rows and the users' row with the weights.
The exact weighting of potential interactions in the original is not public. The logarithms have a rate of their own (`rates_rate`;
.1 moves a rate of .01 as far in a step as Adam at .001 moves the rate itself, as the original does).
Vectors have `metacf.width` numbers per layer, as in NGCF, and not `model.dim`. Messages of the whole graph are dropped out, a task's own
are not. K is 9, what a new user brings, where the original has 3 to 5; the adjacency is NGCF's as printed, its code had the mean. A regular
user is served as a new one, from the latest `model.max_length` events with all other edges taken out: the model has no rows for users.

Dimension key: R users, I items, D = width, U tasks or served users, K support, Q query, N negatives, P potential, X items of a task.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metacsr_jax import losses
from metacsr_jax.adaptation import adapt
from metacsr_jax.baselines.few_shot import dense
from metacsr_jax.baselines.ngcf import (
    GraphData,
    final_vector,
    item_layers,
    layers_of,
    surroundings,
    user_vector,
    whole_graph,
)
from metacsr_jax.baselines.training import (
    draw_sets,
    epochs,
    served_events,
    served_negatives,
    start_state,
    updates_per_epoch,
)
from metacsr_jax.config import Config, MetaCFConfig
from metacsr_jax.graph import DiffusionInputs, aggregate_items, aggregate_users
from metacsr_jax.model import Model
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import Protocol, training_events
from metacsr_jax.tasks import make_histories
from metacsr_jax.training_graph import training_graph

# theta: user [D], item [I, D], layers; rates: logarithms, a tree like what adapts.
Params = dict[str, Any]


class Task(NamedTuple):
    """A user as a task sees it.

    Attributes:
        row: int32, the user's row among the regular ones, whose edges are taken out; -1: it has none.
        item_K: support items.
        real_K: which are real.
        potential_P: potential interactions.
        real_P: which are real.
    """

    row: jax.Array
    item_K: jax.Array
    real_K: jax.Array
    potential_P: jax.Array
    real_P: jax.Array


def init(key: jax.Array, items: int, own: MetaCFConfig) -> Params:
    """theta and the logarithms of the rates; the key is consumed."""
    user_key, item_key, *layer_keys = jax.random.split(key, 2 + own.layers)
    scale = own.width**-0.5
    theta = {
        "user": scale * jax.random.normal(user_key, (own.width,)),
        "item": scale * jax.random.normal(item_key, (items, own.width)),
        "layers": [],
    }
    for layer_key in layer_keys:
        sum_key, product_key = jax.random.split(layer_key)
        theta["layers"].append(
            {
                "sum": dense(sum_key, own.width, own.width),
                "product": dense(product_key, own.width, own.width),
            }
        )
    start = jnp.log(own.inner_rate)
    rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, start), split(theta, own)[0])
    return {"theta": theta, "rates": rates}


def split(theta: Params, own: MetaCFConfig) -> tuple[Params, Params]:
    """theta in what a task adapts and what it shares."""
    if own.adapt_embeddings:
        return theta, {}
    return {"layers": theta["layers"]}, {name: theta[name] for name in ("user", "item")}


def edge_weights(own: MetaCFConfig, task: Task) -> jax.Array:
    """Weights of the edges to support and potential items, [K + P]."""
    return jnp.concatenate([1.0 * task.real_K, own.potential_weight * task.real_P])


def support_loss(theta, messages, data, own, task: Task, negative_KN) -> jax.Array:
    """BPR on the support; for each item the user is seen without the edge to it."""
    around = surroundings(messages, data, own, task.row, support_items(task, negative_KN))
    return loss_of_rows(theta, theta["item"][around.item_X], around, own, task, negative_KN)


def support_items(task: Task, negative_KN) -> jax.Array:
    """All items that the support's loss touches: support, potential, negatives."""
    return jnp.concatenate([task.item_K, task.potential_P, negative_KN.reshape(-1)])


def loss_of_rows(theta, own_XD, around, own, task: Task, negative_KN) -> jax.Array:
    """`support_loss` from the rows of `support_items` and their surroundings."""
    layers = layers_of(theta, own_XD, around)
    weight_Y = edge_weights(own, task)
    count, linked = task.item_K.shape[0], weight_Y.shape[0]
    neighbour, degree_Y = [layer[:linked] for layer in layers], around.degree_X[:linked]
    masked_KY = weight_Y[None] * (1.0 - jnp.eye(count, linked))
    user_KD = jax.vmap(partial(user_vector, theta, own, neighbour, degree_Y))(masked_KY)
    vector_XD = final_vector(layers)
    negative_KND = vector_XD[linked:].reshape(*negative_KN.shape, -1)
    return bpr_loss(user_KD, vector_XD[:count], negative_KND, task.real_K)


def bpr_loss(user_KD, positive_KD, negative_KND, real_K) -> jax.Array:
    """Mean over what is real of -log sigmoid of each positive's margin over its negatives."""
    positive_K = jnp.sum(user_KD * positive_KD, axis=1)
    negative_KN = jnp.einsum("kd,knd->kn", user_KD, negative_KND)
    return losses.masked_mean(losses.bpr(positive_K, negative_KN).mean_B, real_K)


def personalise(params, messages, data, own, task: Task, negative_KN, steps: int) -> Params:
    """theta' of a task: training and serving adapt through here."""
    if not steps:
        return params["theta"]
    fast, shared = split(params["theta"], own)
    rates = jax.tree.map(jnp.exp, params["rates"])
    # Only the rows of the task go into the loop; an item that is there twice has one row.
    item_X = support_items(task, negative_KN)
    slot_X = jnp.argmax(item_X[:, None] == item_X[None], axis=1)
    around = surroundings(messages, data, own, task.row, item_X)
    table_ID = params["theta"]["item"]
    if own.adapt_embeddings:
        fast = {**fast, "item": table_ID[item_X]}
        rates = {**rates, "item": rates["item"][item_X]}
    shared_XD = table_ID[item_X]

    def loss(fast):
        own_XD = fast["item"][slot_X] if own.adapt_embeddings else shared_XD
        return loss_of_rows({**shared, **fast}, own_XD, around, own, task, negative_KN)

    fast = adapt(loss, fast, rates, steps)
    if own.adapt_embeddings:
        fast = {**fast, "item": table_ID.at[item_X].set(fast["item"][slot_X])}
    return {**shared, **fast}


def task_user(theta, messages, data, own, task: Task) -> jax.Array:
    """The user's vector from the whole support and the potential interactions."""
    item_X = jnp.concatenate([task.item_K, task.potential_P])
    neighbour, degree_X = item_layers(theta, messages, data, own, task.row, item_X)
    return user_vector(theta, own, neighbour, degree_X, edge_weights(own, task))


def distinct(item_K: jax.Array, real_K: jax.Array) -> jax.Array:
    """`real_K` without the later occurrences of an item."""
    same_KK = (item_K[:, None] == item_K[None]) & real_K[None] & real_K[:, None]
    return real_K & (jnp.argmax(same_KK, axis=1) == jnp.arange(item_K.shape[0]))


def draw_potential(
    key: jax.Array, inputs: DiffusionInputs, own: MetaCFConfig, row, item_K, real_K, items: int
) -> tuple[jax.Array, jax.Array]:
    """Potential interactions of one user, without replacement, in proportion to paths; the key is consumed."""
    slots = min(items, item_K.shape[0] if own.potential < 0 else own.potential)
    if not slots:
        return jnp.zeros(0, jnp.int32), jnp.zeros(0, bool)
    users = inputs.graph.nodes["degree"].shape[0] - items
    support_I = jnp.zeros(items).at[item_K].max(1.0 * real_K)
    reached_R = aggregate_users(inputs, support_I[:, None], users, "sum")[:, 0]
    reached_R = jnp.where(jnp.arange(users) == row, 0.0, reached_R)  # a path needs another user
    paths_I = aggregate_items(inputs, reached_R[:, None], items, "sum")[:, 0]
    open_I = (paths_I > 0) & (support_I == 0)
    logit_I = jnp.where(open_I, jnp.log(jnp.maximum(paths_I, 1e-9)), -jnp.inf)
    _, item_P = jax.lax.top_k(logit_I + jax.random.gumbel(key, (items,)), slots)
    wanted = jnp.sum(real_K) if own.potential < 0 else slots
    return item_P.astype(jnp.int32), open_I[item_P] & (jnp.arange(slots) < wanted)


def metacf(protocol: Protocol, config: Config) -> Model:
    """MetaCF_NGCF on a protocol."""
    own, items = config.metacf, protocol.num_items
    training = training_events(protocol)
    histories = make_histories(training.offset_R1, training.item_F)
    data = jax.device_put(GraphData(histories, training_graph(protocol)))
    faster = optax.masked(
        optax.scale(own.rates_rate / own.outer_rate), {"theta": False, "rates": True}
    )
    optimizer = optax.chain(optax.clip(own.clip), optax.adam(own.outer_rate), faster)

    def initial(key):
        return start_state(init(key, items, own), optimizer)

    def task_loss(params, messages, data, task, negative_KN, query_Q, real_Q, negative_QN):
        theta = personalise(params, messages, data, own, task, negative_KN, own.inner_steps)
        user_D = task_user(theta, messages, data, own, task)
        item_X = jnp.concatenate([query_Q, negative_QN.reshape(-1)])
        vector_XD = final_vector(item_layers(theta, messages, data, own, task.row, item_X)[0])
        count = query_Q.shape[0]
        negative_QND = vector_XD[count:].reshape(*negative_QN.shape, -1)
        user_QD = jnp.broadcast_to(user_D, (count, user_D.shape[0]))
        loss = bpr_loss(user_QD, vector_XD[:count], negative_QND, real_Q)
        touched = jnp.concatenate([task.item_K, item_X])
        norms = jnp.sum(theta["item"][touched] ** 2) + jnp.sum(theta["user"] ** 2)
        return loss + own.regularisation * norms / touched.shape[0]

    def loss(params, data, key):
        set_key, size_key, negative_key, path_key, drop_key = jax.random.split(key, 5)
        row_U, item_UX, real_UX = draw_sets(
            set_key, data.histories, own.tasks, own.support, own.query
        )
        # A new user may bring fewer items than K: 1 to K of them are shown.
        shown_U1 = jax.random.randint(size_key, (own.tasks, 1), 1, own.support + 1)
        real_UK = real_UX[:, : own.support] & (jnp.arange(own.support)[None] < shown_U1)
        item_UK, query_UQ = item_UX[:, : own.support], item_UX[:, own.support :]
        real_UK = jax.vmap(distinct)(item_UK, real_UK)
        in_support_UQ = jnp.any(
            (query_UQ[:, :, None] == item_UK[:, None]) & real_UK[:, None], axis=2
        )
        real_UQ = real_UX[:, own.support :] & ~in_support_UQ
        count = (own.support + own.query) * own.negatives
        negative_UM = draw_negatives(negative_key, data.histories.known, row_U, items, count)
        negative_UXN = negative_UM.reshape(own.tasks, -1, own.negatives)
        potential = jax.vmap(draw_potential, (0, None, None, 0, 0, 0, None))(
            jax.random.split(path_key, own.tasks), data.inputs, own, row_U, item_UK, real_UK, items
        )
        messages = whole_graph(params["theta"], data.inputs, own, drop_key)
        loss_U = jax.vmap(task_loss, (None, None, None, 0, 0, 0, 0, 0))(
            params,
            messages,
            data,
            Task(row_U, item_UK, real_UK, *potential),
            negative_UXN[:, : own.support],
            query_UQ,
            real_UQ,
            negative_UXN[:, own.support :],
        )
        return jnp.mean(loss_U)

    phase = epochs(
        loss,
        optimizer,
        steps=config.train.steps,
        per_dispatch=config.train.chunk,
        updates=updates_per_epoch(histories.eligible_V.shape[0], own.tasks),
        counts="tasks",
        per_update=own.tasks,
    )

    def score(params, messages, data, batch, steps):
        item_UK, real_UK = served_events(batch)
        real_UK = jax.vmap(distinct)(item_UK, real_UK)
        seed, count = config.protocol.seed, item_UK.shape[1] * own.negatives
        negative_UKN = served_negatives(batch, seed, items, 1, count).reshape(
            *item_UK.shape, own.negatives
        )
        path_key = jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))
        keys = jax.vmap(partial(jax.random.fold_in, path_key))(batch.seed_B)
        potential = jax.vmap(draw_potential, (0, None, None, 0, 0, 0, None))(
            keys, data.inputs, own, batch.user_B, item_UK, real_UK, items
        )

        def one(given):
            task, negative_KN = given
            theta = personalise(params, messages, data, own, task, negative_KN, steps)
            user_D = task_user(theta, messages, data, own, task)
            every = jnp.arange(items)
            item_ID = final_vector(item_layers(theta, messages, data, own, task.row, every)[0])
            return item_ID @ user_D

        # One after another: each has a whole catalogue of its own.
        return jax.lax.map(one, (Task(batch.user_B, item_UK, real_UK, *potential), negative_UKN))

    whole = jax.jit(lambda theta, inputs: whole_graph(theta, inputs, own))
    jitted = jax.jit(score, static_argnums=4)

    def bind(params, adapt_per="user"):
        del adapt_per
        messages = whole(params["theta"], data.inputs)
        return lambda batch, steps: jitted(params, messages, data, batch, steps)

    return Model("metacf-ngcf", "epoch", True, data, initial, (phase,), bind, own.inner_steps)
