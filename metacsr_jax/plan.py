"""What a run would do: configuration, sizes, parameters, memory. Nothing is trained or written."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from metacsr_jax import settings
from metacsr_jax.audit import audit
from metacsr_jax.config import Config
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.problem import Problem, make_problem
from metacsr_jax.protocol import build_protocol
from metacsr_jax.train import initial_state


def plan(log: Interactions, config: Config) -> str:
    """Describes a run: merged configuration, protocol and audit, parameter counts, memory of a training step.

    The memory is XLA's own figure for the compiled step, so this compiles it (seconds), but runs nothing.

    Args:
        log: the events.
        config: all settings.

    Returns:
        Text of several lines.
    """
    protocol = build_protocol(log, config.protocol)
    report = audit(protocol, log=log)
    problem = make_problem(protocol, config)
    lines = [json.dumps(settings.to_dict(config), indent=1), *report.lines(), *_sizes(problem)]
    return "\n".join(lines)


def _sizes(problem: Problem) -> Iterator[str]:
    model = problem.model
    state = jax.eval_shape(lambda: initial_state(problem))
    for name, count in parameter_counts(state.params).items():
        yield f"parameters of {name}: {count:,}"
    yield from model.describe()
    yield f"resident data: {_megabytes(model.data):,.0f} MB, training state: {_megabytes(state):,.0f} MB"
    key = jax.eval_shape(lambda: jax.random.key(0))
    for phase in model.phases:
        analysis = phase.chunk.lower(state, model.data, key).compile().memory_analysis()
        text = (
            "not known on this backend"
            if analysis is None
            else f"{analysis.temp_size_in_bytes / 1e6:,.0f} MB"
        )
        yield f"{phase.title}: {phase.steps:,} {model.unit}s, working memory of one: {text}"


def parameter_counts(params: Any) -> dict[str, int]:
    """Number of parameters of each top-level part."""
    parts = params if isinstance(params, Mapping) else {}
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in parts.items()}


def _megabytes(tree) -> float:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6
