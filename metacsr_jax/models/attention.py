"""Masked additive self-attention of the Sequential Recommender (paper: eqs. 2 to 7).

Dimension key: P tokens and Q pairs of S sequences that come in runs (`metacsr_jax.runs`); L positions of one sequence (m: attended, n:
attending), D = dim, A = width of W4 and W5.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.config import ModelConfig
from metacsr_jax.kernels.mixing import mix, side_softmax
from metacsr_jax.models.pairs import pair_scores
from metacsr_jax.models.products import product
from metacsr_jax.runs import Runs, evenly, join_pairs, split_pairs

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


def allowed_pairs(events_S: jax.Array, runs: Runs) -> jax.Array:
    """Which pairs of positions are two real events, bool [Q].

    Args:
        events_S: int32, how many positions of each sequence are; the others are ahead.
        runs: the sequences.
    """
    parts, start = [], 0
    for count, longest in runs:
        ago_L = np.arange(longest, 0, -1)
        needed_LL = np.maximum(ago_L[:, None], ago_L[None])  # events, for both to be real
        needed_LL[np.diag_indices(longest)] = np.iinfo(np.int32).max
        parts.append(needed_LL[None] <= events_S[start : start + count, None, None])
        start += count
    return join_pairs(parts)


def correlations(attention: Mapping[str, Any], item_PD: jax.Array, runs: Runs) -> jax.Array:
    """W3^T sigmoid(W4 i_m + W5 i_n) of eq. 2 for all pairs [Q], for `attention=element`.

    Args:
        attention: parameters of `PairAttention`.
        item_PD: item vectors.
        runs: the sequences.
    """
    both_DA = jnp.concatenate([attention[name]["kernel"] for name in ("W4", "W5")], axis=1)
    end_P2A = product(item_PD, both_DA).reshape(-1, 2, both_DA.shape[1] // 2)
    return pair_scores(end_P2A, attention["W3"][:, 0], runs)


def attend(
    config: ModelConfig,
    attention: Mapping[str, Any],
    item_PD: jax.Array,
    allowed_Q: jax.Array,
    correlation_Q: jax.Array,
    runs: Runs,
) -> jax.Array:
    """Forward and backward encodings E_fw and E_bw side by side (eqs. 3 to 7) for `attention=element`.

    Args:
        config: of the encoder.
        attention: parameters of `PairAttention`; slopes are read where the distance has them.
        item_PD: item vectors.
        allowed_Q: bool, pairs of two real events.
        correlation_Q: of the items.
        runs: the sequences.

    Returns:
        [P, 2 D], zeros at padding and where a position has nothing to attend to.
    """
    distance_Q = join_pairs(
        [
            jnp.broadcast_to(distances(config, attention, longest), (count, longest, longest))
            for count, longest in runs
        ]
    )
    score_Q = correlation_Q - distance_Q.astype(correlation_Q.dtype)
    if config.normalise_over == "m":
        weight_Q = side_softmax(score_Q, allowed_Q, runs)
    else:
        turned = (turned_pairs(x_Q, runs) for x_Q in (score_Q, allowed_Q))
        weight_Q = turned_pairs(side_softmax(*turned, runs), runs)
    return mix(weight_Q, item_PD, runs).reshape(-1, 2 * item_PD.shape[1])


def distances(config: ModelConfig, attention: Mapping[str, Any], length: int) -> jax.Array:
    """d(|m - n|) of eq. 2, [L, L]: of earlier m in one direction, of later ones in the other."""
    position_L = np.arange(length)
    step_LL = np.abs(position_L[:, None] - position_L[None]).astype(float)
    if config.distance == "exp":
        return jnp.exp(step_LL)
    if config.distance == "linear":
        return jnp.asarray(step_LL)
    slopes = (nn.softplus(attention[f"slope_{direction}"]) for direction in ("fw", "bw"))
    return jnp.where(position_L[:, None] < position_L[None], *slopes) * step_LL


def turned_pairs(x_Q: jax.Array, runs: Runs) -> jax.Array:
    """x[n, m] of every sequence."""
    return join_pairs([part.swapaxes(1, 2) for part in split_pairs(x_Q, runs)])


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
    def __call__(self, item_LD: jax.Array, valid_L: jax.Array) -> jax.Array:
        """E_fw and E_bw side by side, [L, 2 D]; zeros at padding and where a position has nothing to attend to.

        Args:
            item_LD: item vectors.
            valid_L: bool, False at padding.
        """
        config, length = self.config, item_LD.shape[0]
        width = config.attention_dim or config.dim
        init = nn.initializers.lecun_normal()
        end_LA = [nn.Dense(width, use_bias=False, name=name)(item_LD) for name in ("W4", "W5")]
        out_width = 1 if config.attention == "element" else config.dim
        W3_AO = self.param("W3", init, (width, out_width))
        slopes = {}
        if config.distance == "learned":
            start = nn.initializers.constant(math.log(math.expm1(INITIAL_SLOPE)))
            names = ("slope_fw", "slope_bw")
            slopes = {name: self.param(name, start, ()) for name in names}
        if config.attention == "element":
            one = evenly(1, length)
            correlation_Q = pair_scores(jnp.stack(end_LA, axis=1), W3_AO[:, 0], one)
            allowed_LL = valid_L[:, None] & valid_L[None] & ~np.eye(length, dtype=bool)
            return attend(config, slopes, item_LD, allowed_LL.reshape(-1), correlation_Q, one)
        from_LA, to_LA = end_LA
        score_LLD = nn.sigmoid(from_LA[:, None] + to_LA[None]) @ W3_AO
        score_LLD = score_LLD - distances(config, slopes, length)[..., None]
        axis = 0 if config.normalise_over == "m" else 1
        mixed = []
        for allowed_LL in directed_masks(valid_L):
            weight_LLD = masked_softmax(score_LLD, allowed_LL[..., None], axis)
            mixed.append(jnp.einsum("mnd,md->nd", weight_LLD, item_LD))
        return jnp.concatenate(mixed, axis=-1)
