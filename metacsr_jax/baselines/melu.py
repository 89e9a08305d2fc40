"""MeLU: MAML over users, only the decision layers adapt (Lee, Im, Jang, Cho, Chung, KDD 2019).

Score: [e_u, e_i] -> 64 ReLU -> 64 ReLU -> 1. The inner steps move the three layers, the outer step moves them and the embeddings.

Reading, with ids only: a new user has no attributes to embed, so e_u is one learned row that all new users share; a regular user's
task is presented with that row in `melu.id_dropout` of the draws and with a row of its own in the others, so that both are trained.
Personal is then what the decision layers learn from the support, which is MeLU's claim. `user_vector=support` takes the mean of the
support's item embeddings instead: stronger, and no longer MeLU. Labels are 1 for the user's items, 0 for sampled ones, binary
cross-entropy. The original regresses ratings, and its published code cuts the graph of the inner step; this is second order, as
printed. Support and query are drawn without order, as there. Support sets have at most as many items as a new user brings;
regular users are served with their latest `model.max_length` events. The original trains on users with 13 to 100 ratings, this on all.

Dimension key: D = dim, H = hidden, R regular users, I items, K support items.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.few_shot import Predictor, apply_dense, dense, few_shot, plus
from metacsr_jax.config import Config
from metacsr_jax.model import Model
from metacsr_jax.protocol import Protocol


def make_predictor(dim: int, hidden: int, user_vector: str) -> Predictor:
    """MeLU's network; the last row of the user table is the one that new users share."""

    def init(key, users, items):
        user_key, item_key, first_key, second_key, last_key = jax.random.split(key, 5)
        fast = {
            "first": dense(first_key, 2 * dim, hidden),
            "second": dense(second_key, hidden, hidden),
            "last": dense(last_key, hidden, 1),
        }
        shared = {
            "user": jax.random.normal(user_key, (users + 1, dim)) / jnp.sqrt(dim),
            "item": jax.random.normal(item_key, (items, dim)) / jnp.sqrt(dim),
        }
        return {"fast": fast, "shared": shared}

    def user(shared, row, item_K, real_K):
        new_D = shared["user"][-1]
        if user_vector == "zero":
            new_D = jnp.zeros_like(new_D)
        elif user_vector == "support":
            total_D = jnp.sum(jnp.where(real_K[:, None], shared["item"][item_K], 0.0), axis=0)
            new_D = total_D / jnp.maximum(jnp.sum(real_K), 1)
        return jnp.where(row < 0, new_D, shared["user"][row])

    def logits(fast, shared, user_D, item):
        # [e_u, e_i] W = e_u W[:D] + e_i W[D:]: the user's half once for all items.
        kernel, bias = fast["first"]["kernel"], fast["first"]["bias"]
        of_user_H = user_D @ kernel[:dim] + bias
        hidden = jax.nn.relu(plus(shared["item"][item] @ kernel[dim:], of_user_H))
        hidden = jax.nn.relu(apply_dense(fast["second"], hidden))
        return apply_dense(fast["last"], hidden)[..., 0]

    return Predictor(init, user, logits)


def melu(protocol: Protocol, config: Config) -> Model:
    """MeLU on a protocol."""
    own = config.melu
    predictor = make_predictor(config.model.dim, own.hidden, own.user_vector)
    return few_shot("melu", predictor, own, protocol, config, new_user_share=own.id_dropout)
