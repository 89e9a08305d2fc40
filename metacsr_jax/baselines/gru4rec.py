"""GRU4Rec: gated recurrent units over a history (Hidasi, Karatzoglou, Baltrunas, Tikk, ICLR 2016).

r, z = sigmoid(x W + b + h U + c), n = tanh(x W_n + b_n + r (h U_n + c_n)), h' = (1 - z) n + z h; score h . q_i.

Reading: one layer; item vectors instead of one-hot inputs; output vectors apart from the input's, as in the paper; trained by
softmax over the catalogue at every position of windows of a user's history instead of TOP1 or BPR-max over the items of a
mini-batch of sessions (Klenitskiy, Vasilev, RecSys 2023: the loss is what matters); Adam instead of Adagrad. A new user's context
is read, and may be fine-tuned on.

Dimension key: L positions, D = dim, I items.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.causal import CausalEncoder, causal
from metacsr_jax.baselines.sequence import dropped
from metacsr_jax.config import Config, GRU4RecConfig
from metacsr_jax.model import Model
from metacsr_jax.protocol import Protocol


def make_encoder(dim: int, config: GRU4RecConfig) -> CausalEncoder:
    """The network; gates in the order r, z, n."""

    def init(key, items):
        in_key, out_key, input_key, state_key = jax.random.split(key, 4)
        scale = dim**-0.5
        orthogonal = jax.nn.initializers.orthogonal()
        state = [orthogonal(one, (dim, dim)) for one in jax.random.split(state_key, 3)]
        return {
            "items": {
                "in": scale * jax.random.normal(in_key, (items, dim)),
                "out": scale * jax.random.normal(out_key, (items, dim)),
            },
            "network": {
                "input": scale * jax.random.normal(input_key, (dim, 3 * dim)),
                "state": jnp.concatenate(state, axis=1),
                "input_bias": jnp.zeros(3 * dim),
                "state_bias": jnp.zeros(3 * dim),
            },
        }

    def states(params, item_L, key=None):
        in_key, out_key = (None, None) if key is None else jax.random.split(key)
        network = params["network"]
        item_LD = dropped(in_key, config.dropout, params["items"]["in"][item_L])
        gate_LG = item_LD @ network["input"] + network["input_bias"][None]

        def step(h_D, gate_G):
            r_D, z_D, n_D = jnp.split(gate_G, 3)
            to_r_D, to_z_D, to_n_D = jnp.split(h_D @ network["state"] + network["state_bias"], 3)
            z_D = jax.nn.sigmoid(z_D + to_z_D)
            n_D = jnp.tanh(n_D + jax.nn.sigmoid(r_D + to_r_D) * to_n_D)
            h_D = (1 - z_D) * n_D + z_D * h_D
            return h_D, h_D

        _, state_LD = jax.lax.scan(step, jnp.zeros(dim), gate_LG)
        return dropped(out_key, config.dropout, state_LD)

    return CausalEncoder(init, states, lambda params: params["items"]["out"])


def gru4rec(protocol: Protocol, config: Config) -> Model:
    """GRU4Rec on a protocol."""
    encoder = make_encoder(config.model.dim, config.gru4rec)
    return causal("gru4rec", encoder, config.gru4rec, protocol, config)
