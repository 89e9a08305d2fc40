"""What a run would do: configuration, sizes, parameters, memory. Nothing is trained or written."""

import json
from collections.abc import Iterator

import jax

from metacsr_jax import settings
from metacsr_jax.audit import audit
from metacsr_jax.config import Config
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.models.metacsr import parameter_counts
from metacsr_jax.optimizer import make_optimizer
from metacsr_jax.problem import Problem, make_problem
from metacsr_jax.protocol import build_protocol
from metacsr_jax.step import make_chunk
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
    config, data = problem.config, problem.data
    optimizer = make_optimizer(config.optimizer, config.train)
    state = jax.eval_shape(lambda: initial_state(problem, optimizer))
    for name, count in parameter_counts(state.params).items():
        yield f"parameters of {name}: {count:,}"
    pairs = data.inputs.graph.senders.size // 2
    form = "segments" if data.inputs.adjacency_IR is None else "dense product"
    yield (
        f"graph: {pairs:,} pairs of {data.histories.count_R.size:,} users "
        f"and {problem.protocol.num_items:,} items, aggregated as {form}"
    )
    tasks = config.tasks
    samples = tasks.tasks * tasks.way
    yield (
        f"outer step: {tasks.tasks} tasks x {tasks.way} users x "
        f"({tasks.support} support + {tasks.query} query) = {samples * (tasks.support + tasks.query):,} samples"
    )
    yield f"resident data: {_megabytes(data):,.0f} MB, training state: {_megabytes(state):,.0f} MB"
    key = jax.eval_shape(lambda: jax.random.key(0))
    phases = {"pre-training": config.train.pretrain_steps, "meta-training": config.train.steps}
    for phase, steps in phases.items():
        if not steps:
            continue
        chunk = make_chunk(
            problem.network,
            problem.learner,
            optimizer,
            config,
            problem.protocol.num_items,
            pretrain=phase == "pre-training",
        )
        analysis = chunk.lower(state, data, key).compile().memory_analysis()
        text = (
            "not known on this backend"
            if analysis is None
            else f"{analysis.temp_size_in_bytes / 1e6:,.0f} MB"
        )
        yield f"{phase}: {steps:,} steps, working memory of a step: {text}"


def _megabytes(tree) -> float:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6
