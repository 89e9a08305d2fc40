"""Masked additive self-attention of the Sequential Recommender (paper: eqs. 2 to 7).

Dimension key: B sequences, L positions (m: attended, n: attending), D = dim, A = width of W4 and W5.
Most is written for one sequence; `vmap` gives the batch.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metacsr_jax.config import ModelConfig
from metacsr_jax.kernels.mixing import mix, side_softmax
from metacsr_jax.models.pairs import pair_scores
from metacsr_jax.models.products import product

INITIAL_SLOPE = 0.5  # distance=learned: softplus^-1 is taken of it


def directed_masks(valid_L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which m each n may attend to: earlier ones (eq. 3) and later ones (eq. 4).

    Args:
        valid_L: bool, False at padding.

    Returns:
        Two bool arrays [m, n], forward and backward.
    """
    position_L = jnp.arange(valid_L.shape[0])
    both_LL = valid_L[:, None] & valid_L[None, :]
    earlier_LL = position_L[:, None] < position_L[None, :]
    return both_LL & earlier_LL, both_LL & earlier_LL.T


def correlations(attention: Mapping[str, Any], item_BLD: jax.Array) -> jax.Array:
    """W3^T sigmoid(W4 i_m + W5 i_n) of eq. 2 for all pairs of each sequence, which `PairAttention` takes instead of computing its own.

    Args:
        attention: the module's parameters.
        item_BLD: item vectors of sequences that share them.

    Returns:
        [B, m, n, O], O = 1 for `attention=element` and D for `feature`.
    """
    from_BLA, to_BLA = (product(item_BLD, attention[name]["kernel"]) for name in ("W4", "W5"))
    return jax.vmap(_correlate, (0, 0, None))(from_BLA, to_BLA, attention["W3"])


def _correlate(from_LA, to_LA, W3_AO):
    if W3_AO.shape[1] == 1:
        return pair_scores(from_LA, to_LA, W3_AO[:, 0])[..., None]
    return nn.sigmoid(from_LA[:, None] + to_LA[None, :]) @ W3_AO


def masked_softmax(score: jax.Array, allowed: jax.Array, axis: int) -> jax.Array:
    """Softmax over the allowed entries of an axis; a line without any yields zeros, in value and derivatives.

    Args:
        score: finite scores of any shape.
        allowed: bool, broadcastable to `score`.
        axis: the axis that is summed.

    Returns:
        Weights of `score`'s shape, zero where not allowed.
    """
    allowed = jnp.broadcast_to(allowed, score.shape)
    low = jnp.where(allowed, score, -1e30)
    top = jax.lax.stop_gradient(jnp.max(low, axis=axis, keepdims=True))
    weight = jnp.where(allowed, jnp.exp(jnp.where(allowed, score - top, 0.0)), 0.0)
    total = jnp.sum(weight, axis=axis, keepdims=True)
    return weight / jnp.where(total > 0, total, 1.0)


class PairAttention(nn.Module):
    """Forward and backward encodings E_fw, E_bw of a sequence (eqs. 2 to 7).

    cor(m, n) = W3^T sigmoid(W4 i_m + W5 i_n) - d(|m - n|), a score per pair (`attention=element`) or a vector per pair
    (`feature`). Each ordered pair serves one direction only, so both share the pair tensor.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        item_LD: jax.Array,
        valid_L: jax.Array,
        correlation_LLO: jax.Array | None = None,
    ) -> jax.Array:
        """E_fw and E_bw side by side, [L, 2 D]; zeros at padding and where a position has nothing to attend to.

        Args:
            item_LD: item vectors.
            valid_L: bool, False at padding.
            correlation_LLO: their `correlations`, where they are known.
        """
        config, length = self.config, item_LD.shape[0]
        width = config.attention_dim or config.dim
        init = nn.initializers.lecun_normal()
        if correlation_LLO is None:
            from_LA, to_LA = (
                nn.Dense(width, use_bias=False, name=name)(item_LD) for name in ("W4", "W5")
            )
            out_width = 1 if config.attention == "element" else config.dim
            W3_AO = self.param("W3", init, (width, out_width))
            correlation_LLO = _correlate(from_LA, to_LA, W3_AO)
        step_LL = jnp.abs(jnp.arange(length)[:, None] - jnp.arange(length)[None, :])
        step_LL = step_LL.astype(correlation_LLO.dtype)
        position_L = jnp.arange(length)
        earlier_LL = position_L[:, None] < position_L[None, :]
        by_side = [self._distance(step_LL, direction) for direction in ("fw", "bw")]
        score_LLO = correlation_LLO - jnp.where(earlier_LL, *by_side)[..., None]
        if config.attention == "element":
            allowed_LL = valid_L[:, None] & valid_L[None, :]
            mixed_L2D = mix(self._weights(score_LLO[..., 0], allowed_LL), item_LD)
            return mixed_L2D.reshape(length, -1)
        axis = 0 if config.normalise_over == "m" else 1
        mixed = []
        for allowed_LL in directed_masks(valid_L):
            weight_LLD = masked_softmax(score_LLO, allowed_LL[..., None], axis)
            mixed.append(jnp.einsum("mnd,md->nd", weight_LLD, item_LD))
        return jnp.concatenate(mixed, axis=-1)

    def _weights(self, score_LL, allowed_LL):
        if self.config.normalise_over == "m":
            return side_softmax(score_LL, allowed_LL)
        return side_softmax(score_LL.T, allowed_LL.T).T

    def _distance(self, step_LL: jax.Array, direction: str) -> jax.Array:
        if self.config.distance == "exp":
            return jnp.exp(step_LL)
        if self.config.distance == "linear":
            return step_LL
        start = math.log(math.expm1(INITIAL_SLOPE))
        slope = self.param(f"slope_{direction}", nn.initializers.constant(start), ())
        return nn.softplus(slope) * step_LL
