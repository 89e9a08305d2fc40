"""Sequence encoders: histories of item vectors to user preferences s_u (paper: eq. 8, section 5).

Dimension key: L positions, D = dim, F = width the readout sees per position.
Every encoder is written for one left-padded sequence and ends in a sub-module `readout`, which is what ANIL adapts. The paper's also
takes the tokens of many sequences in runs (`metacsr_jax.runs`); L then stands for these.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metacsr_jax.config import ModelConfig
from metacsr_jax.models.attention import PairAttention, masked_softmax
from metacsr_jax.models.products import product, stair_product
from metacsr_jax.runs import Runs, padded


class Projection(nn.Module):
    """W6 x + b3, with what lets a task change W6 without a matrix of its own.

    A gradient step on a dense layer adds a matrix of the samples' rank, W6' = W6 + sum_r left_r right_r^T. Parameters "left" [R, F] and
    "right" [R, O], where there are any, are that sum; a variable "taps/out" [O] is added to the output, so that the derivative for
    it is the right side of the next step, whose left side, the input, is sown as "inputs/x".
    """

    features: int

    @nn.compact
    def __call__(self, x_F: jax.Array, runs: Runs | None = None, length: int = 1) -> jax.Array:
        """Returns [O], or [B, O] of [B, F]; taps are of one sample. With runs x are the tokens of sequences of `length` positions
        (`stair_product`)."""
        shape = (x_F.shape[-1] * length, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias_O = self.param("bias", nn.initializers.zeros_init(), (self.features,))

        def times(matrix):
            return (
                product(x_F, matrix) if runs is None else stair_product(x_F, matrix, runs, length)
            )

        out = times(kernel)
        out = out + jnp.broadcast_to(bias_O, out.shape)
        if self.has_variable("params", "left"):
            left, right = (self.get_variable("params", name) for name in ("left", "right"))
            out = out + times(left.T) @ right
        if self.has_variable("taps", "out"):
            out = out + self.get_variable("taps", "out")
        self.sow("inputs", "x", x_F)
        return out


class Readout(nn.Module):
    """s_u = ReLU(W6 [E_fw, E_bw] + b3) (eq. 8), optionally through a hidden layer."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        state_LF: jax.Array,
        valid_L: jax.Array,
        deterministic: bool,
        runs: Runs | None = None,
    ) -> jax.Array:
        """Returns s_u [D] from per-position states, zeros at padding; s [S, D] from the tokens' states [P, F], where there are `runs`."""
        config, known = self.config, ()
        if config.compress:
            state_LF = nn.Dense(config.compress, use_bias=False, name="W0")(state_LF)
        if runs is not None and config.readout == "flatten":
            flat, known = state_LF, (runs, config.max_length)
        else:
            if runs is not None:
                state_LF, valid_L = (padded(x, runs, runs.longest) for x in (state_LF, valid_L))
            if config.readout == "flatten":
                flat = state_LF.reshape(-1)
            elif config.readout == "last":
                flat = state_LF[..., -1, :]
            else:
                count = jnp.maximum(jnp.sum(valid_L, axis=-1, keepdims=True), 1)
                flat = jnp.sum(state_LF, axis=-2) / count
        flat = nn.Dropout(config.input_dropout)(flat, deterministic=deterministic)
        if config.hidden:
            flat = nn.relu(Projection(config.hidden, name="W6")(flat, *known))
            flat = nn.Dropout(config.dropout)(flat, deterministic=deterministic)
            out_D = nn.Dense(config.dim, name="W7")(flat)
        else:
            out_D = Projection(config.dim, name="W6")(flat, *known)
        return nn.relu(out_D) if config.output_relu else out_D


class AttentionEncoder(nn.Module):
    """The paper's masked self-attention in both directions (eqs. 2 to 8)."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        item_LD: jax.Array,
        valid_L: jax.Array,
        deterministic: bool,
        attended_LE: jax.Array | None = None,
        runs: Runs | None = None,
    ) -> jax.Array:
        """Returns s_u [D] of one history; `valid_L` is False at padding. Of several, s [S, D], where tokens are given with what
        `attend` makes of them and the `runs` they come in."""
        attention = PairAttention(self.config, name="attention")
        state_LF = attention(item_LD, valid_L) if attended_LE is None else attended_LE
        if self.config.readout_items:
            state_LF = jnp.concatenate([state_LF, item_LD], axis=-1)
        return Readout(self.config, name="readout")(state_LF, valid_L, deterministic, runs)


class MeanEncoder(nn.Module):
    """Mean of the history's vectors under the same readout layer: table 5's "without Sequential Recommender"."""

    config: ModelConfig

    @nn.compact
    def __call__(self, item_LD: jax.Array, valid_L: jax.Array, deterministic: bool) -> jax.Array:
        """Returns s_u [D]; the order of the history does not matter."""
        count = jnp.maximum(jnp.sum(valid_L), 1)
        mean_1D = jnp.sum(jnp.where(valid_L[:, None], item_LD, 0.0), axis=0)[None] / count
        return Readout(self.config, name="readout")(mean_1D, jnp.ones(1, bool), deterministic)


class GRUEncoder(nn.Module):
    """A gated recurrent unit over the history; padding leaves its state alone."""

    config: ModelConfig

    @nn.compact
    def __call__(self, item_LD: jax.Array, valid_L: jax.Array, deterministic: bool) -> jax.Array:
        """Returns s_u [D] from the unit's states."""
        cell = nn.GRUCell(self.config.dim, name="gru")
        state_D, states = jnp.zeros(self.config.dim), []
        for position in range(item_LD.shape[0]):
            new_D, _ = cell(state_D, item_LD[position])
            state_D = jnp.where(valid_L[position], new_D, state_D)
            states.append(state_D)
        return Readout(self.config, name="readout")(jnp.stack(states), valid_L, deterministic)


class TransformerBlock(nn.Module):
    """Pre-norm causal self-attention and feed-forward layer."""

    config: ModelConfig

    @nn.compact
    def __call__(self, state_LD: jax.Array, valid_L: jax.Array, deterministic: bool) -> jax.Array:
        config, length = self.config, state_LD.shape[0]
        heads, width = config.heads, config.dim // config.heads
        normed_LD = nn.LayerNorm(name="norm1")(state_LD)
        query, key, value = (
            nn.Dense(config.dim, name=name)(normed_LD).reshape(length, heads, width)
            for name in ("query", "key", "value")
        )
        score_HLL = jnp.einsum("nhk,mhk->hmn", query, key) / width**0.5
        position_L = jnp.arange(length)
        allowed_LL = (position_L[:, None] <= position_L[None, :]) & valid_L[:, None]
        weight_HLL = masked_softmax(score_HLL, allowed_LL, axis=1)
        mixed_LD = jnp.einsum("hmn,mhk->nhk", weight_HLL, value).reshape(length, config.dim)
        drop = nn.Dropout(config.dropout)
        mixed_LD = nn.Dense(config.dim, name="out")(mixed_LD)
        state_LD = state_LD + drop(mixed_LD, deterministic=deterministic)
        normed_LD = nn.LayerNorm(name="norm2")(state_LD)
        wide = nn.gelu(nn.Dense(4 * config.dim, name="wide")(normed_LD))
        return state_LD + drop(
            nn.Dense(config.dim, name="narrow")(wide), deterministic=deterministic
        )


class TransformerEncoder(nn.Module):
    """A causal transformer with positions counted from the latest event."""

    config: ModelConfig

    @nn.compact
    def __call__(self, item_LD: jax.Array, valid_L: jax.Array, deterministic: bool) -> jax.Array:
        """Returns s_u [D] from the last layer's states."""
        config = self.config
        init = nn.initializers.normal(0.1 / config.dim**0.5)
        state_LD = item_LD + self.param("positions", init, item_LD.shape)
        for layer in range(1, config.layers + 1):
            block = TransformerBlock(config, name=f"block{layer}")
            state_LD = block(state_LD, valid_L, deterministic)
        state_LD = nn.LayerNorm(name="norm")(state_LD)
        state_LD = jnp.where(valid_L[:, None], state_LD, 0.0)
        return Readout(config, name="readout")(state_LD, valid_L, deterministic)


def apply_tapped(
    encoder: nn.Module,
    theta_2: Any,
    tap_O: jax.Array,
    item_LD: jax.Array,
    valid_L: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One sequence encoded without dropout, with a tap on W6 (`Projection`).

    Args:
        encoder: of `ENCODERS`.
        theta_2: its parameters.
        tap_O: added to what W6 gives.
        item_LD: item vectors.
        valid_L: bool, False at padding.

    Returns:
        s_u [D] and what W6 read [F].
    """
    variables = {"params": theta_2, "taps": {"readout": {"W6": {"out": tap_O}}}}
    s_D, sown = encoder.apply(variables, item_LD, valid_L, True, mutable=["inputs"])
    return s_D, sown["inputs"]["readout"]["W6"]["x"][0]


ENCODERS = {
    "attention": AttentionEncoder,
    "gru": GRUEncoder,
    "transformer": TransformerEncoder,
    "mean": MeanEncoder,
}
