"""CSAN: feature-wise self-attention over a user's behaviours (Huang, Qian, Fang, Sang, Xu, ACM Multimedia 2018).

x_m = ReLU(W0 e_m + b0); for each pair, in both directions,
    cor(m, n) = W^T f(W1 x_m + W2 x_n + b) + M_mn in R^D,  M_mn = -|m - n| where n may attend to m, else minus infinity,
softmax over m for each feature, h_n = sum_m att(m, n) * x_m; [h_fw, h_bw] -> dense -> source-to-token pooling -> s. Score s . e_i.

Reading, with ids only: the other modalities of the original (text, pictures, kinds of behaviour) are left out, an item is its
embedding; each direction has weights of its own; f is `csan.activation`; pooling is the feature-wise softmax over positions of
Shen et al. (2018), on which the block is built, with f in it. A position with nothing to attend to gets zeros, so that one event alone says
nothing of itself (eq. 5 of metaCSR, which simplifies this block, has the same case). Trained and
fine-tuned as the LSTM is.
Public code gives no sizes: one block, width D.

Dimension key: L positions (m: attended, n: attending), D = dim, I items.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.baselines.sequence import Encoder, dropped, sequence
from metacsr_jax.config import Config, CSANConfig
from metacsr_jax.model import Model
from metacsr_jax.models.attention import directed_masks, masked_softmax
from metacsr_jax.protocol import Protocol

DIRECTIONS = ("fw", "bw")


def make_encoder(dim: int, config: CSANConfig) -> Encoder:
    """The network."""
    activation = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}[config.activation]

    def matrix(key, inputs, outputs):
        return jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs)

    def init(key, items):
        item_key, W0_key, join_key, P1_key, P2_key, *block_keys = jax.random.split(key, 7)
        network: dict[str, Any] = {
            "W0": matrix(W0_key, dim, dim),
            "b0": jnp.zeros(dim),
            "join": matrix(join_key, 2 * dim, dim),
            "join_bias": jnp.zeros(dim),
            "P1": matrix(P1_key, dim, dim),
            "p1": jnp.zeros(dim),
            "P2": matrix(P2_key, dim, dim),
            "p2": jnp.zeros(dim),
        }
        for direction, block_key in zip(DIRECTIONS, block_keys, strict=True):
            W1_key, W2_key, W_key = jax.random.split(block_key, 3)
            network[direction] = {
                "W1": matrix(W1_key, dim, dim),
                "W2": matrix(W2_key, dim, dim),
                "b": jnp.zeros(dim),
                "W": matrix(W_key, dim, dim),
            }
        table_ID = dim**-0.5 * jax.random.normal(item_key, (items, dim))
        return {"items": {"in": table_ID}, "network": network}

    def attend(block, x_LD, m_P, n_P, allowed_LL):
        """Only the pairs of one direction are scored: they cost a matrix product each."""
        from_LD, to_LD = x_LD @ block["W1"], x_LD @ block["W2"]
        pair_PD = activation(from_LD[m_P] + to_LD[n_P] + block["b"][None])
        step_P1 = np.abs(m_P - n_P)[:, None].astype(np.float32)
        shape = (*allowed_LL.shape, dim)
        score_LLD = jnp.zeros(shape, x_LD.dtype).at[m_P, n_P].set(pair_PD @ block["W"] - step_P1)
        weight_LLD = masked_softmax(score_LLD, allowed_LL[..., None], axis=0)
        return jnp.einsum("mnd,md->nd", weight_LLD, x_LD)

    def encode(params, context_L, length, key=None):
        in_key, out_key = (None, None) if key is None else jax.random.split(key)
        network, positions = params["network"], context_L.shape[0]
        valid_L = jnp.arange(positions) >= positions - length
        item_LD = dropped(in_key, config.dropout, params["items"]["in"][context_L])
        x_LD = jax.nn.relu(item_LD @ network["W0"] + network["b0"][None])
        earlier_P, later_P = np.triu_indices(positions, 1)
        pairs = (earlier_P, later_P), (later_P, earlier_P)
        both = [
            attend(network[direction], x_LD, *of_direction, allowed_LL)
            for direction, of_direction, allowed_LL in zip(
                DIRECTIONS, pairs, directed_masks(valid_L), strict=True
            )
        ]
        h_LD = jnp.concatenate(both, axis=1) @ network["join"] + network["join_bias"][None]
        hidden_LD = activation(h_LD @ network["P1"] + network["p1"][None])
        score_LD = hidden_LD @ network["P2"] + network["p2"][None]
        weight_LD = masked_softmax(score_LD, valid_L[:, None], axis=0)
        return dropped(out_key, config.dropout, jnp.sum(weight_LD * h_LD, axis=0))

    def table(params):
        return params["items"]["in"]

    return Encoder(init, encode, table)


def csan(protocol: Protocol, config: Config) -> Model:
    """CSAN on a protocol."""
    encoder = make_encoder(config.model.dim, config.csan)
    return sequence("csan", encoder, config.csan, protocol, config)
