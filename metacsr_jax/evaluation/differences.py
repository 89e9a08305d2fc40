"""Paired differences between two evaluations of the same cases: adapted and not, metaCSR and a baseline."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from metacsr_jax.evaluation.metrics import METRICS
from metacsr_jax.evaluation.rows import paired_difference, ranks_path, read_ranks


class Compared(NamedTuple):
    """Whose ranks: the scenario part of the rank file's name, and the number of adaptation steps."""

    label: str
    scenario: str
    adapt_steps: int


def differences(
    workdir: str | os.PathLike,
    pairs: Iterable[tuple[Compared, Compared]],
    candidates: Iterable[str],
    metrics: Iterable[str] = ("auc", "map", "hit@10", "ndcg@10"),
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Mean of metric(first) - metric(second) over the cases, with its paired bootstrap 95 % interval.

    Args:
        workdir: evaluated; the rank files of both must be there.
        pairs: what to compare.
        candidates: kinds of ranking, "sampled-100" or "full".
        metrics: which.
        resamples: of the bootstrap.

    Returns:
        Flat rows: scenario, candidates, first, second, metric, difference, low, high, cases.

    Raises:
        WorkdirError: a rank file is missing, or the two are not of the same cases.
    """
    pairs, metrics, rows = list(pairs), list(metrics), []
    for kind in candidates:
        for first, second in pairs:
            ranks = [
                read_ranks(ranks_path(Path(workdir), one.scenario, kind, one.adapt_steps))
                for one in (first, second)
            ]
            interval = paired_difference(*ranks, resamples=resamples)
            for metric in metrics:
                place = METRICS.index(metric)
                rows.append(
                    {
                        "scenario": first.scenario,
                        "candidates": kind,
                        "first": first.label,
                        "second": second.label,
                        "metric": metric,
                        "difference": float(interval.value_M[place]),
                        "low": float(interval.low_M[place]),
                        "high": float(interval.high_M[place]),
                        "cases": len(ranks[0].rank),
                    }
                )
    return rows
