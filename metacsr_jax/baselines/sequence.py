"""Models that read a window of a history and score the next item: training, serving, fine-tuning. The encoder is the model's own.

Dimension key: B windows or users, L positions, D = dim, I items, N negatives, K support prefixes of a user, S adaptation steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metacsr_jax import losses
from metacsr_jax.adaptation import adapt
from metacsr_jax.baselines.training import (
    device_histories,
    epochs,
    scored_by,
    served_negatives,
    start_state,
    updates_per_epoch,
)
from metacsr_jax.config import CausalConfig, Config, SequenceConfig, TaskConfig
from metacsr_jax.model import Model
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import Protocol
from metacsr_jax.tasks import draw_samples

# {"items": tables over the catalogue, "network": the rest, which fine-tuning moves}
Params = dict[str, Any]
LossSettings = SequenceConfig | CausalConfig


class Encoder(NamedTuple):
    """A sequence model.

    Attributes:
        init: (key, items) -> Params; the key is consumed.
        encode: (params, context_L, length, key or None) -> s_D, for one left-padded window; with a key, which is consumed, dropout
            is on.
        table: (params) -> item vectors [I, D] against which s is multiplied.
    """

    init: Callable[[jax.Array, int], Params]
    encode: Callable[..., jax.Array]
    table: Callable[[Params], jax.Array]


def window_loss(
    encoder: Encoder,
    own: LossSettings,
    params: Params,
    context_BL: jax.Array,
    length_B: jax.Array,
    target_B: jax.Array,
    negative_BN: jax.Array | None,
    real_B: jax.Array,
    key: jax.Array | None = None,
) -> jax.Array:
    """Mean loss over the windows that are real: "bpr" or "gbce" against negatives, or "softmax" over the catalogue.

    Args:
        encoder: the model.
        own: names the loss.
        params: of the model.
        context_BL: left-padded windows.
        length_B: their lengths.
        target_B: the next items.
        negative_BN: for "bpr" and "gbce".
        real_B: windows that count.
        key: consumed for dropout; None: no dropout.
    """
    if key is None:
        s_BD = jax.vmap(encoder.encode, (None, 0, 0, None))(params, context_BL, length_B, None)
    else:
        keys = jax.random.split(key, context_BL.shape[0])
        s_BD = jax.vmap(encoder.encode, (None, 0, 0, 0))(params, context_BL, length_B, keys)
    table_ID = encoder.table(params)
    if own.loss == "softmax":
        return losses.reduce(losses.softmax(s_BD @ table_ID.T, target_B, 0.0), real_B, "mean")
    positive_B = jnp.sum(s_BD * table_ID[target_B], axis=-1)
    negative_score_BN = jnp.einsum("bd,bnd->bn", s_BD, table_ID[negative_BN])
    each = paired_loss(own, positive_B, negative_score_BN, table_ID.shape[0])
    return losses.reduce(each, real_B, "mean")


def paired_loss(
    own: LossSettings, positive_B: jax.Array, negative_BN: jax.Array, items: int
) -> losses.SampleLosses:
    """The loss of positives against negatives that the settings name."""
    if isinstance(own, CausalConfig) and own.loss == "gbce":
        return losses.gbce(positive_B, negative_BN, items, own.calibration)
    return losses.bpr(positive_B, negative_BN)


def sequence(
    name: str, encoder: Encoder, own: SequenceConfig, protocol: Protocol, config: Config
) -> Model:
    """A model trained on windows and the event that follows each, on a protocol."""
    items, histories = protocol.num_items, device_histories(protocol)
    length = config.model.max_length
    optimizer = optax.chain(
        optax.clip_by_global_norm(own.clip),
        optax.adamw(own.rate, weight_decay=own.weight_decay),
    )
    draws = TaskConfig(min_length=own.min_length, user_weight="events")

    def initial(key):
        return start_state(encoder.init(key, items), optimizer)

    def loss(params, histories, key):
        window_key, negative_key, dropout_key = jax.random.split(key, 3)
        window, user_B = draw_samples(window_key, histories, draws, length, own.batch)
        negative_BN = None
        if own.loss != "softmax":
            negative_BN = draw_negatives(
                negative_key, histories.known, user_B, items, own.negatives
            )
        return window_loss(
            encoder,
            own,
            params,
            window.context_KL,
            window.length_K,
            window.target_K,
            negative_BN,
            window.mask_K,
            dropout_key,
        )

    phase = epochs(
        loss,
        optimizer,
        steps=config.train.steps,
        per_dispatch=config.train.chunk,
        updates=updates_per_epoch(int(histories.target_V1[-1]), own.batch),
        counts="windows",
        per_update=own.batch,
    )

    score = make_score(encoder, own, items, config.protocol.seed)
    return Model(name, "epoch", True, histories, initial, (phase,), scored_by(score))


def make_score(
    encoder: Encoder, own: LossSettings, items: int, seed: int
) -> Callable[[Params, Any, int], jax.Array]:
    """Builds (params, batch, adapt_steps) -> logits [B, I].

    New users need no adaptation: their context is read. S steps of fine-tuning on the prefixes of the support, with fresh negatives
    in each, move the network and leave the item vectors as they are.

    Args:
        encoder: the model.
        own: its loss, number of negatives and rate of fine-tuning.
        items: I.
        seed: `protocol.seed`, of the negatives.
    """

    def fine_tuned(params, context_KL, length_K, target_K, real_K, negative_SKN, steps):
        def inner_loss(network, negative_KN=None):
            return window_loss(
                encoder,
                own,
                {**params, "network": network},
                context_KL,
                length_K,
                target_K,
                negative_KN,
                real_K,
            )

        network = adapt(inner_loss, params["network"], own.adapt_rate, steps, per_step=negative_SKN)
        return {**params, "network": network}

    def score(params, batch, steps):
        def one(context_L, length, *support):
            tuned = fine_tuned(params, *support, steps) if steps else params
            s_D = encoder.encode(tuned, context_L, length, None)
            return encoder.table(tuned) @ s_D

        if not steps:
            return jax.vmap(one)(batch.context_BL, batch.length_B)
        negative_BSKN = None
        if own.loss != "softmax":
            shape = (steps, batch.support_target_BK.shape[1], own.negatives)
            negative_BSM = served_negatives(batch, seed, items, steps, shape[1] * shape[2])
            negative_BSKN = negative_BSM.reshape(-1, *shape)
        return jax.vmap(one)(
            batch.context_BL,
            batch.length_B,
            batch.support_context_BKL,
            batch.support_length_BK,
            batch.support_target_BK,
            batch.support_mask_BK,
            negative_BSKN,
        )

    return score


def dropped(key: jax.Array | None, rate: float, x: jax.Array) -> jax.Array:
    """Inverted dropout; without a key nothing happens. The key is consumed."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)
