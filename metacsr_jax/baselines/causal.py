"""Models that read a history once and predict the next event at every position: training, and serving as a sequence model.

Windows of a regular user's history are read from their first event on, so that position k has seen k + 1 events, as when a new
user's few events are read; all positions of a window are trained at once.

Dimension key: B windows or users, L positions, D = dim, I items, N negatives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metacsr_jax import losses
from metacsr_jax.baselines.sequence import Encoder, Params, make_score, paired_loss
from metacsr_jax.baselines.training import (
    device_histories,
    epochs,
    scored_by,
    start_state,
    updates_per_epoch,
)
from metacsr_jax.config import CausalConfig, Config
from metacsr_jax.errors import ConfigError
from metacsr_jax.model import Model
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import Protocol
from metacsr_jax.tasks import Histories, draw_users


class CausalEncoder(NamedTuple):
    """A sequence model whose state at a position depends on that position and those before it alone.

    Attributes:
        init: (key, items) -> Params; the key is consumed.
        states: (params, item_L, key or None) -> [L, D], for one window that starts at position 0; with a key, which is consumed,
            dropout is on.
        table: (params) -> item vectors [I, D] against which a state is multiplied.
    """

    init: Callable[[jax.Array, int], Params]
    states: Callable[[Params, jax.Array, jax.Array | None], jax.Array]
    table: Callable[[Params], jax.Array]


def reading(encoder: CausalEncoder) -> Encoder:
    """The same model for left-padded windows: the state after the last event, zeros where there is none."""

    def encode(params, context_L, length, key=None):
        width = context_L.shape[0]
        # The padding goes behind the events, where a causal model cannot see it.
        item_L = context_L[(jnp.arange(width) + width - length) % width]
        state_LD = encoder.states(params, item_L, key)
        return jnp.where(length > 0, state_LD[jnp.maximum(length - 1, 0)], 0.0)

    return Encoder(encoder.init, encode, encoder.table)


def draw_windows(
    key: jax.Array, histories: Histories, window: int, early: float, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draws windows, users in proportion to their targets; a window starts anywhere that leaves it as full as the history allows.

    Args:
        key: consumed.
        histories: users with two events or more are drawn.
        window: L, events read.
        early: share of windows that start with the history.
        count: B.

    Returns:
        Items read [B, L], items that follow each [B, L], which of those exist, bool [B, L], and user rows [B].
    """
    user_key, start_key, early_key = jax.random.split(key, 3)
    user_B = draw_users(user_key, histories, "events", (count,))
    targets_B = histories.count_R[user_B] - 1
    start_B = jax.random.randint(start_key, (count,), 0, jnp.maximum(targets_B - window, 0) + 1)
    start_B = jnp.where(jax.random.bernoulli(early_key, early, (count,)), 0, start_B)
    place_BL = start_B[:, None] + jnp.arange(window)[None]
    real_BL = place_BL < targets_B[:, None]
    event_BL = histories.start_R[user_B][:, None] + jnp.where(real_BL, place_BL, 0)
    return histories.item_F[event_BL], histories.item_F[event_BL + 1], real_BL, user_B


def targets_per_window(histories: Histories, window: int, batch: int) -> tuple[int, float]:
    """All targets, and how many of them the windows of an update hold on average: short histories do not fill theirs."""
    targets_V = np.diff(np.asarray(histories.target_V1, np.int64))
    held = np.sum(targets_V * np.minimum(targets_V, window)) / np.sum(targets_V)
    return int(targets_V.sum()), batch * float(held)


def position_loss(
    encoder: CausalEncoder,
    own: CausalConfig,
    params: Params,
    item_BL: jax.Array,
    target_BL: jax.Array,
    real_BL: jax.Array,
    negative_BN: jax.Array | None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Mean loss over all real positions; the negatives of a window are shared by its positions.

    Args:
        encoder: the model.
        own: names the loss.
        params: of the model.
        item_BL: items read.
        target_BL: item that follows each.
        real_BL: which targets exist.
        negative_BN: None for "softmax".
        key: consumed for dropout; None: no dropout.
    """
    count = item_BL.shape[0]
    if key is None:
        state_BLD = jax.vmap(encoder.states, (None, 0, None))(params, item_BL, None)
    else:
        keys = jax.random.split(key, count)
        state_BLD = jax.vmap(encoder.states, (None, 0, 0))(params, item_BL, keys)
    table_ID = encoder.table(params)
    target_S, real_S = target_BL.reshape(-1), real_BL.reshape(-1)
    state_SD = state_BLD.reshape(target_S.size, -1)
    if own.loss == "softmax":
        each = losses.softmax(state_SD @ table_ID.T, target_S)
    else:
        positive_S = jnp.sum(state_SD * table_ID[target_S], axis=-1)
        negative_BLN = jnp.einsum("bld,bnd->bln", state_BLD, table_ID[negative_BN])
        negative_SN = negative_BLN.reshape(target_S.size, -1)
        each = paired_loss(own, positive_S, negative_SN, table_ID.shape[0])
    return losses.reduce(each, real_S, "mean")


def causal(
    name: str, encoder: CausalEncoder, own: CausalConfig, protocol: Protocol, config: Config
) -> Model:
    """A causal model on a protocol.

    Raises:
        ConfigError: the contexts to be served are longer than the windows of training.
    """
    if config.model.max_length > own.window:
        raise ConfigError(
            f"model.max_length={config.model.max_length}: expected at most the window of training, {own.window}"
        )
    items, histories = protocol.num_items, device_histories(protocol)
    updates = updates_per_epoch(*targets_per_window(histories, own.window, own.batch))
    rate: Any = own.rate
    if own.schedule == "cosine":
        rate = optax.cosine_decay_schedule(own.rate, config.train.steps * updates)
    optimizer = optax.chain(
        optax.clip_by_global_norm(own.clip), optax.adamw(rate, weight_decay=own.weight_decay)
    )

    def initial(key):
        return start_state(encoder.init(key, items), optimizer)

    def loss(params, histories, key):
        window_key, negative_key, dropout_key = jax.random.split(key, 3)
        *windows, user_B = draw_windows(window_key, histories, own.window, own.early, own.batch)
        negative_BN = None
        if own.loss != "softmax":
            negative_BN = draw_negatives(
                negative_key, histories.known, user_B, items, own.negatives
            )
        return position_loss(encoder, own, params, *windows, negative_BN, dropout_key)

    phase = epochs(
        loss,
        optimizer,
        steps=config.train.steps,
        per_dispatch=config.train.chunk,
        updates=updates,
        counts="windows",
        per_update=own.batch,
    )
    score = make_score(reading(encoder), own, items, config.protocol.seed)
    return Model(name, "epoch", True, histories, initial, (phase,), scored_by(score))
