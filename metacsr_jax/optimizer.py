"""The outer optimizer: Adam with the paper's coupled or a decoupled weight decay (paper: 4.1.2, eqs. 14, 15)."""

import jax
import jax.numpy as jnp
import optax

from metacsr_jax.config import OptimizerConfig, TrainConfig
from metacsr_jax.models.metacsr import Params


def learning_rate(config: OptimizerConfig, train: TrainConfig) -> optax.Schedule:
    """beta at each step, counted from the start of pre-training; both phases warm up and, with `cosine`, decay to zero."""

    def phase(peak: float, steps: int) -> optax.Schedule:
        warmup = min(config.warmup, steps // 2)
        if config.schedule == "constant":
            if not warmup:
                return optax.constant_schedule(peak)
            return optax.join_schedules(
                [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
            )
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, 1))

    return optax.join_schedules(
        [phase(config.pretrain_rate, train.pretrain_steps), phase(config.rate, train.steps)],
        [train.pretrain_steps],
    )


def decay_mask(params: Params) -> Params:
    """True for matrices and tables of theta_1 and theta_2; biases, slopes and learned rates do not decay."""

    def decays(path, leaf) -> bool:
        return path[0].key != "rates" and jnp.ndim(leaf) >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, train: TrainConfig) -> optax.GradientTransformation:
    """Clipping, Adam and weight decay as configured.

    Coupled decay adds `weight_decay * parameter` to the gradient before Adam sees it, as PyTorch's Adam does; decoupled decay is AdamW's.
    """
    schedule = learning_rate(config, train)
    decay = optax.add_decayed_weights(config.weight_decay, decay_mask)
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.decay == "coupled":
        parts += [decay, optax.scale_by_adam()]
    else:
        parts += [optax.scale_by_adam(), decay]
    # Logarithms of inner rates must cross orders of magnitude in the time in which weights move by hundredths.
    faster = optax.masked(optax.scale(config.rates_rate / config.rate), _rates_mask)
    return optax.chain(*parts, faster, optax.scale_by_learning_rate(schedule))


def _rates_mask(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "rates", params)
