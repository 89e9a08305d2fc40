"""SASRec: causal self-attention over a history (Kang, McAuley, ICDM 2018).

x_l = sqrt(d) e_l + p_l; each block: q = LN(x), y = q + Attention(q W_q, x W_k, x W_v) over positions up to l, z = LN(y),
x' = z + ReLU(z W_1 + b_1) W_2 + b_2; after the last block LN. Score x_l . e_i with the item vectors of the input.

Reading: blocks, widths and the place of the norms as in the original code; biases in all projections, and an output projection
W_o after attention, which widespread reimplementations have and the original has not. Trained at every position by
softmax over the catalogue ("sasrec"; Klenitskiy, Vasilev, RecSys 2023) or by gBCE ("sasrec-gbce"; gSASRec, Petrov, Macdonald,
RecSys 2023) instead of binary cross-entropy against one negative. Departures: positions count from the first event of a window and
not from its end, so that a new user's few events lie where training has seen few events; negatives of gBCE are shared by the
positions of a window and exclude the user's history; item vectors start at standard deviation 1/sqrt(d) times `_START`.
A new user's context is read, and may be fine-tuned on ("SASRec + fine-tune").

Dimension key: L positions, D = dim, H heads, K = D / H, I items.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.causal import CausalEncoder, causal
from metacsr_jax.baselines.sequence import dropped
from metacsr_jax.config import Config, SASRecConfig
from metacsr_jax.model import Model
from metacsr_jax.models.attention import masked_softmax
from metacsr_jax.protocol import Protocol

_START = 0.25  # of item vectors, relative: scores start near 0
_EPSILON = 1e-8  # of the layer norms, as in the original


def make_encoder(dim: int, config: SASRecConfig) -> CausalEncoder:
    """The network for windows of up to `config.window` events."""
    heads, width = config.heads, dim // config.heads

    def init(key, items):
        item_key, position_key, block_key = jax.random.split(key, 3)
        scale = dim**-0.5

        def dense(key):
            return {"w": scale * jax.random.normal(key, (dim, dim)), "b": jnp.zeros(dim)}

        def norm():
            return {"scale": jnp.ones(dim), "bias": jnp.zeros(dim)}

        def block(key):
            names = ("query", "key", "value", "out", "wide", "narrow")
            parts = dict(zip(names, map(dense, jax.random.split(key, len(names))), strict=True))
            return parts | {"attention_norm": norm(), "feed_norm": norm()}

        positions_LD = 0.1 * scale * jax.random.normal(position_key, (config.window, dim))
        return {
            "items": {"in": _START * scale * jax.random.normal(item_key, (items, dim))},
            "network": {
                "positions": positions_LD,
                "blocks": [block(one) for one in jax.random.split(block_key, config.layers)],
                "norm": norm(),
            },
        }

    def attention(block, query_LD, state_LD, key):
        length = state_LD.shape[0]
        query, key_, value = (
            _dense(block[name], given).reshape(length, heads, width)
            for name, given in (("query", query_LD), ("key", state_LD), ("value", state_LD))
        )
        score_HLL = jnp.einsum("nhk,mhk->hnm", query, key_) / width**0.5
        causal_LL = jnp.tril(jnp.ones((length, length), bool))
        weight_HLL = dropped(key, config.dropout, masked_softmax(score_HLL, causal_LL, axis=2))
        mixed_LD = jnp.einsum("hnm,mhk->nhk", weight_HLL, value).reshape(length, dim)
        return _dense(block["out"], mixed_LD)

    def feed(block, state_LD, key):
        wide_key, narrow_key = _split(key, 2)
        wide_LD = jax.nn.relu(dropped(wide_key, config.dropout, _dense(block["wide"], state_LD)))
        return dropped(narrow_key, config.dropout, _dense(block["narrow"], wide_LD))

    def states(params, item_L, key=None):
        network = params["network"]
        in_key, *block_keys = _split(key, 1 + config.layers)
        position_LD = network["positions"][: item_L.shape[0]]
        state_LD = dim**0.5 * params["items"]["in"][item_L] + position_LD
        state_LD = dropped(in_key, config.dropout, state_LD)
        for block, block_key in zip(network["blocks"], block_keys, strict=True):
            attention_key, feed_key = _split(block_key, 2)
            query_LD = _norm(block["attention_norm"], state_LD)
            state_LD = query_LD + attention(block, query_LD, state_LD, attention_key)
            state_LD = _norm(block["feed_norm"], state_LD)
            state_LD = state_LD + feed(block, state_LD, feed_key)
        return _norm(network["norm"], state_LD)

    return CausalEncoder(init, states, lambda params: params["items"]["in"])


def sasrec(protocol: Protocol, config: Config, name: str = "sasrec") -> Model:
    """SASRec on a protocol; the loss is a setting, the name what reports call it."""
    encoder = make_encoder(config.model.dim, config.sasrec)
    return causal(name, encoder, config.sasrec, protocol, config)


def _dense(layer, x_LD):
    return x_LD @ layer["w"] + layer["b"][None]


def _norm(layer, x_LD):
    centred_LD = x_LD - jnp.mean(x_LD, axis=-1, keepdims=True)
    variance_L1 = jnp.mean(centred_LD**2, axis=-1, keepdims=True)
    normed_LD = centred_LD * jax.lax.rsqrt(variance_L1 + _EPSILON)
    return normed_LD * layer["scale"][None] + layer["bias"][None]


def _split(key, count):
    return (None,) * count if key is None else jax.random.split(key, count)
