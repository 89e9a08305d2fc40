"""Validation on pseudo-new users: early stopping and the number of adaptation steps that counts as the result."""

from collections.abc import Callable, Iterable
from typing import Any

from metacsr_jax.cases import CaseBatch
from metacsr_jax.errors import NonFiniteError
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.ranking import rank_cases
from metacsr_jax.problem import Problem, scenario_batches
from metacsr_jax.score import batch_size

Validation = dict[int, dict[str, float]]  # adaptation steps -> metric -> mean over validation users


def make_validation(problem: Problem) -> Callable[[Any, Iterable[int]], Validation]:
    """Builds `(params, adapt_steps) -> Validation`; the cases stay the same over a run, and nothing compiles twice."""
    config = problem.config
    held_out, batch = scenario_batches(problem, "validation")
    adapt_per = config.evaluation.adapt_per[0]

    def batches(start: int, stop: int) -> CaseBatch:
        return CaseBatch(*(array[start:stop] for array in batch))

    def validate(params: Any, adapt_steps: Iterable[int]) -> Validation:
        bound = problem.model.bind(params, adapt_per)
        means = {}
        for steps in adapt_steps if problem.model.adapts else (0,):
            size = batch_size(config, adapt_per, steps)
            size = min(size, batch_size(config, adapt_per, batch=len(held_out.target_N)))
            try:
                ranks = rank_cases(
                    bound, held_out, batches, steps, problem.protocol.mask_seen, size
                )
            except NonFiniteError:
                if not steps:
                    raise
                continue  # so many steps diverge for somebody: never the choice
            sampled = next(name for name in ranks if name != "full")
            metric_M = per_case(*ranks[sampled]).mean(axis=0)
            full_M = per_case(*ranks["full"]).mean(axis=0)
            means[steps] = {
                "auc": float(metric_M[METRICS.index("auc")]),
                "map": float(metric_M[METRICS.index("map")]),
                "full_ndcg@10": float(full_M[METRICS.index("ndcg@10")]),
            }
        if not means:
            raise NonFiniteError(f"validation: scores diverge at {adapt_steps} adaptation steps")
        return means

    return validate


def best_steps(validation: Validation) -> int:
    """The number of adaptation steps with the highest MAP; among equals the smallest."""
    return max(sorted(validation), key=lambda steps: validation[steps]["map"])
