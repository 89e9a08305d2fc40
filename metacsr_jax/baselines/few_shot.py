"""Meta-learning with a user as the task: positives of the user against sampled negatives, without order.

MeLU and MetaCS differ in the predictor and in what of it adapts; drawing tasks, the loss, the outer step (second order unless
`first_order`) and serving are here. The support is a set: its negatives are drawn once and stay the same in all inner steps.
Served users adapt to the latest `model.max_length` events of their history. In logs with repeats an item may be in support and query.

Dimension key: U tasks (users), K positives, N negatives each, D = dim, I items, B served users, L context.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metacsr_jax import losses
from metacsr_jax.adaptation import adapt
from metacsr_jax.baselines.training import (
    device_histories,
    draw_sets,
    epochs,
    scored_by,
    served_events,
    served_negatives,
    start_state,
    updates_per_epoch,
)
from metacsr_jax.config import Config, FewShotConfig
from metacsr_jax.model import Model
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import Protocol

Params = dict[str, Any]  # {"fast": adapts per task, "shared": does not}


class Predictor(NamedTuple):
    """A scorer of items, split in what adapts and what does not.

    Attributes:
        init: (key, users, items) -> {"fast": ..., "shared": ...}; the key is consumed.
        user: (shared, row, item_K, real_K) -> what the predictor knows of a user before adaptation; row is the user's among the
            regular ones, -1 for a new user.
        logits: (fast, shared, user, items of any shape) -> logits of the same shape.
    """

    init: Callable[[jax.Array, int, int], Params]
    user: Callable[..., Any]
    logits: Callable[..., jax.Array]


def set_loss(
    logits: Callable[[jax.Array], jax.Array],
    kind: str,
    item_K: jax.Array,
    real_K: jax.Array,
    negative_KN: jax.Array,
) -> jax.Array:
    """Loss of one user's positives and their negatives, mean over what is real; 0 where nothing is.

    Args:
        logits: items -> logits.
        kind: "bce" on labels 1 and 0, "mse" on the same labels (both over positives and negatives), or "bpr".
        item_K: positives.
        real_K: which of them count, with their negatives.
        negative_KN: negatives of each.
    """
    positive_K1, negative_KN = logits(item_K)[:, None], logits(negative_KN)
    if kind == "bpr":
        each_K = jnp.mean(jax.nn.softplus(negative_KN - positive_K1), axis=1)
    else:
        score = jnp.concatenate([positive_K1, negative_KN], axis=1)
        label = jnp.zeros_like(score).at[:, 0].set(1.0)
        bce = jax.nn.softplus(score) - label * score
        loss = bce if kind == "bce" else (score - label) ** 2
        each_K = jnp.mean(loss, axis=1)
    return losses.masked_mean(each_K, real_K)


def personalise(
    predictor: Predictor,
    own: FewShotConfig,
    params: Params,
    user: Any,
    item_K: jax.Array,
    real_K: jax.Array,
    negative_KN: jax.Array,
    steps: int,
) -> Any:
    """The adapted part after `steps` gradient steps on a user's support: training and serving adapt through here."""

    shared = params["shared"]
    if "item" in shared:
        # Only the support's rows go into the loop, or every inner step would carry a gradient of the whole table back.
        used_X = jnp.concatenate([item_K, negative_KN.reshape(-1)])
        shared = {**shared, "item": shared["item"][used_X]}
        place_X = jnp.arange(used_X.size)
        item_K, negative_KN = (
            place_X[: item_K.size],
            place_X[item_K.size :].reshape(negative_KN.shape),
        )

    def loss(fast):
        logits = partial(predictor.logits, fast, shared, user)
        return set_loss(logits, own.loss, item_K, real_K, negative_KN)

    return adapt(loss, params["fast"], own.inner_rate, steps, first_order=own.first_order)


def task_loss(
    predictor: Predictor,
    own: FewShotConfig,
    params: Params,
    row: jax.Array,
    item_K: jax.Array,
    real_K: jax.Array,
    negative_KN: jax.Array,
) -> jax.Array:
    """Query loss of one task after adaptation; the first `own.support` positives are the support."""
    cut = own.support
    user = predictor.user(params["shared"], row, item_K[:cut], real_K[:cut])
    support = item_K[:cut], real_K[:cut], negative_KN[:cut]
    fast = personalise(predictor, own, params, user, *support, own.inner_steps)
    logits = partial(predictor.logits, fast, params["shared"], user)
    return set_loss(logits, own.loss, item_K[cut:], real_K[cut:], negative_KN[cut:])


def few_shot(
    name: str,
    predictor: Predictor,
    own: FewShotConfig,
    protocol: Protocol,
    config: Config,
    new_user_share: float = 0.0,
) -> Model:
    """A user-wise meta-learner on a protocol.

    Args:
        name: in reports.
        predictor: what scores.
        own: its settings.
        protocol: who is new.
        config: of the run.
        new_user_share: share of training tasks whose user is presented as a new one (row -1).
    """
    items, histories = protocol.num_items, device_histories(protocol)
    users = histories.count_R.shape[0]
    optimizer = optax.adam(own.outer_rate)
    size = own.support + own.query

    def initial(key):
        return start_state(predictor.init(key, users, items), optimizer)

    def loss(params, histories, key):
        set_key, negative_key, hide_key = jax.random.split(key, 3)
        row_U, item_UK, real_UK = draw_sets(set_key, histories, own.tasks, own.support, own.query)
        count = size * own.negatives
        negative_UM = draw_negatives(negative_key, histories.known, row_U, items, count)
        negative_UKN = negative_UM.reshape(own.tasks, size, own.negatives)
        hidden_U = jax.random.bernoulli(hide_key, new_user_share, (own.tasks,))
        row_U = jnp.where(hidden_U, -1, row_U)
        in_axes = (None, None, None, 0, 0, 0, 0)
        loss_U = jax.vmap(task_loss, in_axes)(
            predictor, own, params, row_U, item_UK, real_UK, negative_UKN
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

    def score(params, batch, steps):
        item_BL, real_BL = served_events(batch)
        count = item_BL.shape[1] * own.negatives
        negative_BM = served_negatives(batch, config.protocol.seed, items, 1, count)[:, 0]
        negative_BLN = negative_BM.reshape(*item_BL.shape, own.negatives)

        def one(row, item_L, real_L, negative_LN):
            user = predictor.user(params["shared"], row, item_L, real_L)
            fast = params["fast"]
            if steps:
                fast = personalise(predictor, own, params, user, item_L, real_L, negative_LN, steps)
            return predictor.logits(fast, params["shared"], user, jnp.arange(items))

        return jax.vmap(one)(batch.user_B, item_BL, real_BL, negative_BLN)

    return Model(
        name, "epoch", True, histories, initial, (phase,), scored_by(score), own.inner_steps
    )


def dense(key: jax.Array, inputs: int, outputs: int) -> Params:
    """A dense layer, kernel with variance 1 / inputs and no bias; the key is consumed."""
    return {
        "kernel": jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs),
        "bias": jnp.zeros(outputs),
    }


def apply_dense(layer: Params, x: jax.Array) -> jax.Array:
    """x kernel + bias over the last axis."""
    return plus(x @ layer["kernel"], layer["bias"])


def plus(x: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Adds a vector along the last axis."""
    return x + bias_D.reshape((1,) * (x.ndim - 1) + bias_D.shape)
