"""MetaCS-L and MetaCS-DNN: MAML over users, the whole predictor adapts (Bharadhwaj, Meta-Learning for User Cold-Start Recommendation,
IJCNN 2019).

Reading, with ids only: an item is its embedding e_i, shared by all tasks and moved by the outer step. MetaCS-L scores w . e_i + b and
adapts (w, b), so that w is a meta-learned start of a user's vector; MetaCS-DNN is a perceptron D -> 128 -> 64 -> 1 with ReLU and adapts
all of it. Labels are 1 for the user's items and 0 for sampled ones, binary cross-entropy (`metacs.loss`). The original rates with
side information; it has no public code. Nothing of a user is known but the support: at 0 steps everybody gets the same order.
Served are the latest `model.max_length` events of a user, also where training had smaller supports (`metacs.support`).

Dimension key: D = dim, I items.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.few_shot import Params, Predictor, apply_dense, dense, few_shot
from metacsr_jax.config import Config
from metacsr_jax.model import Model
from metacsr_jax.protocol import Protocol

WIDTHS = {"metacs-l": (), "metacs-dnn": (128, 64)}  # hidden layers


def make_predictor(dim: int, widths: tuple[int, ...], adapt_embeddings: bool) -> Predictor:
    """A perceptron over an item's embedding; without hidden layers it is linear."""

    def init(key, users, items):
        del users
        item_key, *layer_keys = jax.random.split(key, len(widths) + 2)
        sizes = (dim, *widths, 1)
        fast: Params = {
            f"layer_{n}": dense(layer_key, sizes[n], sizes[n + 1])
            for n, layer_key in enumerate(layer_keys)
        }
        table_ID = jax.random.normal(item_key, (items, dim)) / jnp.sqrt(dim)
        if adapt_embeddings:
            return {"fast": {**fast, "item": table_ID}, "shared": {}}
        return {"fast": fast, "shared": {"item": table_ID}}

    def user(shared, row, item_K, real_K):
        del shared, row, item_K, real_K

    def logits(fast, shared, user, item):
        del user
        hidden = (fast if adapt_embeddings else shared)["item"][item]
        for n in range(len(widths)):
            hidden = jax.nn.relu(apply_dense(fast[f"layer_{n}"], hidden))
        return apply_dense(fast[f"layer_{len(widths)}"], hidden)[..., 0]

    return Predictor(init, user, logits)


def metacs_l(protocol: Protocol, config: Config) -> Model:
    """MetaCS-L on a protocol."""
    return _metacs("metacs-l", protocol, config)


def metacs_dnn(protocol: Protocol, config: Config) -> Model:
    """MetaCS-DNN on a protocol."""
    return _metacs("metacs-dnn", protocol, config)


def _metacs(name: str, protocol: Protocol, config: Config) -> Model:
    own = config.metacs
    predictor = make_predictor(config.model.dim, WIDTHS[name], own.adapt_embeddings)
    return few_shot(name, predictor, own, protocol, config)
