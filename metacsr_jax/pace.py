"""How long a model's training takes on this machine, and how much of it fits into a given time."""

import time
from typing import NamedTuple

import jax

from metacsr_jax.config import Config
from metacsr_jax.problem import Problem
from metacsr_jax.train import seed_keys
from metacsr_jax.validation import make_validation


class Pace(NamedTuple):
    """What a trial costs.

    Attributes:
        length: settings of `train` under which a whole training fits, by dotted name; empty where it does as it is.
        least: seconds of the shortest training there is, one dispatch per phase and one validation.
        seconds: that measuring took.
    """

    length: dict[str, int]
    least: float
    seconds: float


def measure_pace(problem: Problem, limit: float) -> Pace:
    """Times a dispatch of each phase, compiled and not, and a validation.

    Args:
        problem: what would be trained.
        limit: seconds that a whole training may take. A dispatch longer than a quarter of it is not repeated.

    Returns:
        The pace. Phases are shortened alike and keep one dispatch at least; SML's periods are as many as there are.
    """
    began = time.monotonic()
    model, train = problem.model, problem.config.train
    init_key, step_key = seed_keys(problem.config)
    state = jax.jit(lambda: model.init(init_key))()
    compiling = 0.0
    chunk_seconds = []
    for phase in model.phases:
        seconds = []
        for _ in range(2):
            started = time.monotonic()
            state, reports = phase.chunk(state, model.data, step_key)
            jax.block_until_ready(reports)
            seconds.append(time.monotonic() - started)
            if seconds[0] > limit / 4:
                break
        chunk_seconds.append(min(seconds))
        compiling += seconds[0] - min(seconds)
    validate = make_validation(problem)
    started = time.monotonic()
    validate(state.params, problem.config.evaluation.adapt_steps)
    validation = time.monotonic() - started  # compiling included: no trial is spared it
    least = compiling + sum(chunk_seconds) + validation
    chunks = [phase.steps // train.chunk for phase in model.phases]
    validations = train.steps // train.validate_every
    whole = sum(count * one for count, one in zip(chunks, chunk_seconds, strict=True))
    whole += validations * validation
    share = (limit - compiling - validation) / whole if whole else 1.0
    length = {} if share >= 1 else shortened(problem.config, max(share, 0.0))
    return Pace(length, least, time.monotonic() - began)


def shortened(config: Config, share: float) -> dict[str, int]:
    """Settings of `train` for a share of its length, by dotted name.

    Args:
        config: of the whole training.
        share: of every phase and of the distance between validations, 0 to 1. One dispatch is left of each at least; SML's rounds
            are as many as there are, and its first phase alone is shortened.
    """
    train, chunk = config.train, config.train.chunk
    fields = ("pretrain_steps", "steps", "validate_every")
    if train.model == "sml":
        fields = ("pretrain_steps",)
    return {
        f"train.{field}": max(int(value * share) // chunk, 1) * chunk
        for field in fields
        if (value := getattr(train, field))
    }
