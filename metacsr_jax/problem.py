"""From a protocol and a configuration to a model, and to the cases it is judged on."""

from typing import NamedTuple

import numpy as np

from metacsr_jax import protocol as protocols
from metacsr_jax.cases import CaseBatch, case_batch
from metacsr_jax.config import Config
from metacsr_jax.model import Model
from metacsr_jax.protocol import Cases, Protocol
from metacsr_jax.registry import MODELS


class Problem(NamedTuple):
    """Everything training, evaluation and recommendation share.

    Attributes:
        config: the run's.
        protocol: who is new, what is held out.
        model: the one that `train.model` names.
    """

    config: Config
    protocol: Protocol
    model: Model


def make_problem(protocol: Protocol, config: Config) -> Problem:
    """Builds the configured model on a protocol's training events.

    Raises:
        LeakError: a held-out event would reach the model.
        ProtocolError: there is nothing to train on.
    """
    return Problem(config, protocol, MODELS[config.train.model](protocol, config))


def scenario_batches(problem: Problem, scenario: str) -> tuple[Cases, CaseBatch]:
    """Cases of a scenario and what a model sees of them, on the host."""
    held_out = protocols.cases(problem.protocol, scenario)
    return held_out, case_inputs(problem, held_out, scenario)


def case_inputs(problem: Problem, held_out: Cases, scenario: str) -> CaseBatch:
    """What a model sees of given cases, on the host: of shortened or reordered histories too."""
    config = problem.config
    support = config.protocol.warm_support if scenario == "warm" else config.protocol.max_support
    return case_batch(
        held_out.offset_N1,
        held_out.item_H,
        config.model.max_length,
        support,
        _training_rows(problem, held_out.user_N),
    )


def _training_rows(problem: Problem, user_N: np.ndarray) -> np.ndarray:
    """Each user's row among those trained on, -1 for users that training does not know."""
    user_R = protocols.training_events(problem.protocol, problem.model.transductive).user_R
    place_N = np.searchsorted(user_R, user_N)
    known_N = user_R[np.minimum(place_N, user_R.size - 1)] == user_N
    return np.where(known_N, place_N, -1).astype(np.int32)
