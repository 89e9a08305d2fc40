"""BPR: matrix factorisation trained on triples (Rendle, Freudenthaler, Gantner, Schmidt-Thieme, UAI 2009).

Score s(u, i) = b_i + p_u . q_i; loss of a triple (u, i, j), with (u, i) uniform over the training events and j uniform outside the
user's history: -log sigmoid(s(u, i) - s(u, j)) + lambda (|p_u|^2 + |q_i|^2 + |q_j|^2). Adam instead of plain SGD, and an
item bias (`bpr.item_bias`).

Reading: a new user's p starts at the regular users' mean (or 0) and takes S gradient steps of the same loss on the support, with fresh
negatives in each, items frozen; a regular user starts from the trained p. The paper trains on every user and knows no new ones: that is
`bpr.transductive`, in which the contexts of validation and new users are trained on too, their held-out events left out. It is another,
easier protocol than everybody else's, and reports call it "bpr-transductive".

Dimension key: R regular users, I items, D = dim, B users of a batch, L support events, N negatives.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metacsr_jax import losses
from metacsr_jax.adaptation import adapt
from metacsr_jax.baselines.training import (
    device_histories,
    draw_events,
    epochs,
    scored_by,
    served_events,
    served_negatives,
    start_state,
    updates_per_epoch,
)
from metacsr_jax.config import BPRConfig, Config
from metacsr_jax.model import Model
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import Protocol

Params = dict[str, Any]  # user [R, D], item [I, D], bias [I]


def init(key: jax.Array, users: int, items: int, dim: int, scale: float) -> Params:
    """Normal factors and no bias; the key is consumed."""
    user_key, item_key = jax.random.split(key)
    return {
        "user": scale * jax.random.normal(user_key, (users, dim)),
        "item": scale * jax.random.normal(item_key, (items, dim)),
        "bias": jnp.zeros(items),
    }


def triple_loss(
    params: Params,
    config: BPRConfig,
    user_B: jax.Array,
    item_B: jax.Array,
    negative_B: jax.Array,
) -> jax.Array:
    """Mean loss of triples."""
    p_BD = params["user"][user_B]
    q_BD, n_BD = params["item"][item_B], params["item"][negative_B]
    margin_B = jnp.sum(p_BD * (q_BD - n_BD), axis=1)
    if config.item_bias:
        margin_B = margin_B + params["bias"][item_B] - params["bias"][negative_B]
    norms_B = jnp.sum(p_BD**2 + q_BD**2 + n_BD**2, axis=1)
    return jnp.mean(jax.nn.softplus(-margin_B) + config.regularisation * norms_B)


def fold_in(
    params: Params,
    config: BPRConfig,
    start_D: jax.Array,
    item_L: jax.Array,
    real_L: jax.Array,
    negative_SLN: jax.Array,
) -> jax.Array:
    """Factors of one user after as many gradient steps as `negative_SLN` leads with."""
    q_LD, b_L = params["item"][item_L], params["bias"][item_L]

    def loss(p_D, negative_LN):
        margin_LN = (q_LD @ p_D)[:, None] - params["item"][negative_LN] @ p_D
        if config.item_bias:
            margin_LN = margin_LN + b_L[:, None] - params["bias"][negative_LN]
        each_L = jnp.mean(jax.nn.softplus(-margin_LN), axis=1)
        mean = losses.masked_mean(each_L, real_L)
        return mean + config.regularisation * jnp.sum(p_D**2)

    steps = negative_SLN.shape[0]
    return adapt(loss, start_D, config.adapt_rate, steps, per_step=negative_SLN)


def bpr(protocol: Protocol, config: Config) -> Model:
    """BPR on a protocol."""
    own, items = config.bpr, protocol.num_items
    histories = device_histories(protocol, own.transductive)
    users = histories.count_R.shape[0]
    optimizer = optax.adam(own.rate)

    def initial(key):
        return start_state(init(key, users, items, config.model.dim, own.init_scale), optimizer)

    def loss(params, histories, key):
        event_key, negative_key = jax.random.split(key)
        user_B, item_B = draw_events(event_key, histories, own.batch)
        negative_B1 = draw_negatives(negative_key, histories.known, user_B, items, 1)
        return triple_loss(params, own, user_B, item_B, negative_B1[:, 0])

    phase = epochs(
        loss,
        optimizer,
        steps=config.train.steps,
        per_dispatch=config.train.chunk,
        updates=updates_per_epoch(histories.item_F.shape[0], own.batch),
        counts="events",
        per_update=own.batch,
    )

    def score(params, batch, steps):
        start_D = jnp.mean(params["user"], axis=0)
        if own.start == "zero":
            start_D = jnp.zeros_like(start_D)
        known_B1 = (batch.user_B >= 0)[:, None]
        p_BD = jnp.where(known_B1, params["user"][batch.user_B], start_D[None])
        if steps:
            item_BL, real_BL = served_events(batch)
            shape = (steps, item_BL.shape[1], own.adapt_negatives)
            negative_BSM = served_negatives(
                batch, config.protocol.seed, items, steps, shape[1] * shape[2]
            )
            negative_BSLN = negative_BSM.reshape(-1, *shape)
            p_BD = jax.vmap(fold_in, (None, None, 0, 0, 0, 0))(
                params, own, p_BD, item_BL, real_BL, negative_BSLN
            )
        return p_BD @ params["item"].T + own.item_bias * params["bias"][None]

    name = "bpr-transductive" if own.transductive else "bpr"
    model = Model(name, "epoch", True, histories, initial, (phase,), scored_by(score), 1)
    return model._replace(transductive=own.transductive)
