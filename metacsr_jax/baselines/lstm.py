"""LSTM: the last hidden state of one layer against item vectors (Hochreiter, Schmidhuber, 1997; sessions as in Hidasi et al., 2016).

i, f, o = sigmoid(x W + h U + b), g = tanh(x W + h U + b); c' = f c + i g; h' = o tanh(c'). The forget gate's bias starts at 1.
Score h . q_i with the input's item vectors (`lstm.tied`) or with another table.

Reading: windows of 2 to T events, the next event is the target; `paper` has BPR against one negative, `tuned` softmax over the catalogue.
The state stays at zero over the padding, so h is taken after the last real event. A new user's context is read, and may be
fine-tuned on, item vectors as they are.

Dimension key: L positions, D = dim, I items.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.sequence import Encoder, dropped, sequence
from metacsr_jax.config import Config, LSTMConfig
from metacsr_jax.model import Model
from metacsr_jax.protocol import Protocol


def make_encoder(dim: int, config: LSTMConfig) -> Encoder:
    """The network; gates in the order i, f, g, o."""

    def init(key, items):
        item_key, out_key, input_key, state_key = jax.random.split(key, 4)
        scale = dim**-0.5
        tables = {"in": scale * jax.random.normal(item_key, (items, dim))}
        if not config.tied:
            tables["out"] = scale * jax.random.normal(out_key, (items, dim))
        orthogonal = jax.nn.initializers.orthogonal()
        state = [orthogonal(one, (dim, dim)) for one in jax.random.split(state_key, 4)]
        network = {
            "input": scale * jax.random.normal(input_key, (dim, 4 * dim)),
            "state": jnp.concatenate(state, axis=1),
            "bias": jnp.zeros(4 * dim).at[dim : 2 * dim].set(1.0),
        }
        return {"items": tables, "network": network}

    def encode(params, context_L, length, key=None):
        in_key, out_key = (None, None) if key is None else jax.random.split(key)
        network = params["network"]
        valid_L = jnp.arange(context_L.shape[0]) >= context_L.shape[0] - length
        item_LD = dropped(in_key, config.dropout, params["items"]["in"][context_L])
        gate_LG = item_LD @ network["input"] + network["bias"][None]

        def step(state, given):
            h_D, c_D = state
            gate_G, valid = given
            i_D, f_D, g_D, o_D = jnp.split(gate_G + h_D @ network["state"], 4)
            new_c_D = jax.nn.sigmoid(f_D) * c_D + jax.nn.sigmoid(i_D) * jnp.tanh(g_D)
            new_h_D = jax.nn.sigmoid(o_D) * jnp.tanh(new_c_D)
            return (jnp.where(valid, new_h_D, h_D), jnp.where(valid, new_c_D, c_D)), None

        (h_D, _), _ = jax.lax.scan(step, (jnp.zeros(dim), jnp.zeros(dim)), (gate_LG, valid_L))
        return dropped(out_key, config.dropout, h_D)

    def table(params):
        return params["items"]["in" if config.tied else "out"]

    return Encoder(init, encode, table)


def lstm(protocol: Protocol, config: Config) -> Model:
    """The LSTM on a protocol."""
    encoder = make_encoder(config.model.dim, config.lstm)
    return sequence("lstm", encoder, config.lstm, protocol, config)
