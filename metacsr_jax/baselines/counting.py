"""A model that only counts, in the form of one that trains: no phases, and nothing worth a checkpoint."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.config import Config
from metacsr_jax.model import Model
from metacsr_jax.protocol import Protocol
from metacsr_jax.step import TrainState


def counting(
    name: str, make_baseline: Callable[[Config], Baseline]
) -> Callable[[Protocol, Config], Model]:
    """Turns what `make_baseline` makes into what the table of models holds.

    Its counts are made anew wherever it is served: they follow from the protocol in seconds.
    """

    def make(protocol: Protocol, config: Config) -> Model:
        def init(key):
            del key
            return TrainState((), (), jnp.zeros((), jnp.int32))

        baseline = make_baseline(config)

        def bind(params, adapt_per="user"):
            del params, adapt_per
            state = baseline.fit(protocol, jax.random.key(config.train.seed))
            return lambda batch, steps: baseline.score(state, jax.device_get(batch), steps)

        return Model(name, "epoch", False, (), init, (), bind)

    return make
