"""From a protocol and a configuration to what runs on the device: network, learner, data, score function."""

from typing import NamedTuple

import jax
import numpy as np

from metacsr_jax import protocol as protocols
from metacsr_jax.audit import check_graph
from metacsr_jax.cases import CaseBatch, case_batch
from metacsr_jax.config import Config
from metacsr_jax.graph import DiffusionInputs, dense_adjacency, interaction_graph
from metacsr_jax.meta import MetaLearner, make_meta_learner
from metacsr_jax.models.metacsr import Network, make_network
from metacsr_jax.protocol import Cases, Protocol
from metacsr_jax.step import TrainData
from metacsr_jax.tasks import make_histories


class Problem(NamedTuple):
    """Everything training, evaluation and recommendation share.

    Attributes:
        config: the run's.
        protocol: who is new, what is held out.
        network: the model.
        learner: the meta-learning algorithm.
        data: histories and graph, on the default device.
    """

    config: Config
    protocol: Protocol
    network: Network
    learner: MetaLearner
    data: TrainData


def make_problem(protocol: Protocol, config: Config) -> Problem:
    """Builds graph and histories from the training events, checks them for leaks, and puts them on the device.

    Raises:
        LeakError: a held-out event would be an edge of the graph.
        ProtocolError: there is nothing to train on.
    """
    training = protocols.training_events(protocol)
    num_users, num_items = training.user_R.size, protocol.num_items
    row_F = np.repeat(np.arange(num_users), np.diff(training.offset_R1))
    check_graph(protocol, training.user_R[row_F], training.item_F)
    graph = interaction_graph(row_F, training.item_F, num_users, num_items)
    user_features = protocol.user_features
    inputs = DiffusionInputs(
        graph,
        dense_adjacency(graph, num_users, num_items),
        protocol.item_features,
        None if user_features is None else user_features[training.user_R],
    )
    data = TrainData(make_histories(training.offset_R1, training.item_F), inputs)
    network = make_network(config.model, num_users, num_items)
    learner = make_meta_learner(network, config.loss, config.meta)
    return Problem(config, protocol, network, learner, jax.device_put(data))


def scenario_batches(problem: Problem, scenario: str) -> tuple[Cases, CaseBatch]:
    """Cases of a scenario and what the model sees of them, on the host."""
    config = problem.config
    held_out = protocols.cases(problem.protocol, scenario)
    support = config.protocol.warm_support if scenario == "warm" else config.protocol.max_support
    batch = case_batch(held_out.offset_N1, held_out.item_H, config.model.max_length, support)
    return held_out, batch
