"""metaCSR as the loop and the harness see it: graph, network, meta-learner and outer steps put together."""

from collections.abc import Iterator
from typing import NamedTuple

import jax

from metacsr_jax.config import Config
from metacsr_jax.meta import MetaLearner, make_meta_learner
from metacsr_jax.model import Model, Phase
from metacsr_jax.models.metacsr import Network, make_network
from metacsr_jax.neighbourhood import draw_candidates
from metacsr_jax.optimizer import make_optimizer
from metacsr_jax.protocol import Protocol, training_events
from metacsr_jax.score import make_score
from metacsr_jax.step import TrainData, init_state, make_chunk
from metacsr_jax.tasks import make_histories
from metacsr_jax.training_graph import training_graph


class Parts(NamedTuple):
    """What metaCSR is made of.

    Attributes:
        network: the model.
        learner: the meta-learning algorithm.
        data: histories and graph, on the default device.
    """

    network: Network
    learner: MetaLearner
    data: TrainData


def make_parts(protocol: Protocol, config: Config) -> Parts:
    """Builds graph and histories from the training events, checks them for leaks, and puts them on the device.

    Raises:
        LeakError: a held-out event would be an edge of the graph.
        ProtocolError: there is nothing to train on.
    """
    training = training_events(protocol)
    inputs = training_graph(protocol)
    if config.loss.candidates:  # those of new users' adaptation; each training step draws others
        key = jax.random.key(config.protocol.seed)
        drawn = draw_candidates(key, protocol.num_items, config.loss.candidates)
        inputs = inputs._replace(candidates=drawn)
    data = TrainData(make_histories(training.offset_R1, training.item_F), inputs)
    network = make_network(config.model, training.user_R.size, protocol.num_items)
    learner = make_meta_learner(network, config.loss, config.meta)
    return Parts(network, learner, jax.device_put(data))


def metacsr(protocol: Protocol, config: Config) -> Model:
    """The paper's model on a protocol; pre-training, where there is any, precedes meta-training.

    Raises:
        LeakError, ProtocolError: see `make_parts`.
    """
    network, learner, data = make_parts(protocol, config)
    optimizer = make_optimizer(config.optimizer, config.train)
    train, tasks = config.train, config.tasks

    def init(key):
        return init_state(network, learner, optimizer, data.inputs, key)

    def chunk(pretrain):
        return make_chunk(
            network, learner, optimizer, config, protocol.num_items, pretrain=pretrain
        )

    phases = (
        Phase(
            "pretrain",
            "pre-training",
            train.pretrain_steps,
            chunk(True),
            "samples",
            tasks.pretrain_batch,
            final=train.steps == 0,
        ),
        Phase("meta", "meta-training", train.steps, chunk(False), "tasks", tasks.tasks),
    )
    represent = jax.jit(network.represent)
    scores = {per: make_score(network, learner, config, per) for per in ("user", "group")}

    def bind(params, adapt_per="user"):
        table = represent(params["representer"], data.inputs)
        table = table._replace(candidates=data.inputs.candidates)
        score = scores[adapt_per]
        return lambda batch, adapt_steps: score(params, table, batch, adapt_steps)

    def describe() -> Iterator[str]:
        pairs = data.inputs.graph.senders.size // 2
        form = "segments" if data.inputs.adjacency_IR is None else "dense product"
        yield (
            f"graph: {pairs:,} pairs of {data.histories.count_R.size:,} users "
            f"and {protocol.num_items:,} items, aggregated as {form}"
        )
        samples = tasks.tasks * tasks.way
        yield (
            f"outer step: {tasks.tasks} tasks x {tasks.way} users x "
            f"({tasks.support} support + {tasks.query} query) = {samples * (tasks.support + tasks.query):,} samples"
        )

    phases = tuple(phase for phase in phases if phase.steps)
    inner_steps = config.meta.inner_steps
    return Model("metacsr", "step", True, data, init, phases, bind, inner_steps, describe)


def pretrain(protocol: Protocol, config: Config) -> Model:
    """The same network on the same draws without an inner loop, fine-tuned on a new user's support all the same: what
    meta-learning has to beat (Buffelli et al., 2023)."""
    return metacsr(protocol, config)._replace(name="pretrain")
