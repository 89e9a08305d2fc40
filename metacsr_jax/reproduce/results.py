"""What the runs came to, as values per user: every number on the page and every verdict is computed from these.

Dimension key: N cases, K versions of a history, P parts of a claim.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metacsr_jax.analysis.probe import Probe, read_probe
from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.significance import mean_interval, paired_interval
from metacsr_jax.report.comparison import (
    Finished,
    Scored,
    check_same_cases,
    scored,
    summary_rows,
)
from metacsr_jax.reproduce.measure import (
    STEPS,
    fine_steps,
    histories_path,
    items_path,
    probe_path,
)
from metacsr_jax.reproduce.plan import Options, base_config
from metacsr_jax.workdir import read_config

RESAMPLES = 2000


class Point(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


class Results(NamedTuple):
    """Finished runs by name, and why others are missing.

    Attributes:
        options: the reproduction's.
        runs: by name, seed by seed.
        missing: name -> why it is not there.
        negatives: per case.
        scored: metrics per case at the chosen steps by (name, scenario, kind of candidates); means over the seeds.
        rows: every metric of the models of tables 3 and 4, as `report.comparison.summary_rows` has them.
        inside: AUC, MAP, losses and shift of each cold case by (name, adaptation steps); means over the seeds.
    """

    options: Options
    runs: dict[str, list[Finished]]
    missing: dict[str, str]
    negatives: int
    scored: dict[tuple[str, str, str], Scored]
    rows: list[dict[str, Any]]
    inside: dict[tuple[str, int], dict[str, np.ndarray]]

    @property
    def sampled(self) -> str:
        """Name of the paper's ranking."""
        return f"sampled-{self.negatives}"

    def has(self, *names: str) -> bool:
        """Whether all of these runs are there."""
        return all(self.runs.get(name) for name in names)

    @property
    def fine_steps(self) -> int:
        """Adaptation steps of "fine-tuned", of every model."""
        return fine_steps(self.runs)

    @property
    def main(self) -> Finished:
        """The run that stands for the page's settings and protocol."""
        for name in ("metacsr", "pretrain", "popular"):
            if self.has(name):
                return self.runs[name][0]
        return next(iter(self.runs.values()))[0]

    @property
    def dataset(self) -> str:
        """Label of the log."""
        return self.main.dataset


def read_results(
    options: Options,
    exhibits: Sequence[str],
    runs: dict[str, list[Finished]],
    missing: dict[str, str],
    negatives: int,
) -> Results:
    """Reads the ranks of all runs, and what was seen inside them.

    Args:
        options: the reproduction's.
        exhibits: that will be made of them.
        runs: finished ones by name; one that lacks a seed counts as missing, so that all means are over the same seeds.
        missing: why others are not there.
        negatives: per case.

    Raises:
        WorkdirError: ranks are damaged, or the seeds of a run were not ranked on the same cases.
    """
    whole = {name: of for name, of in runs.items() if len(of) == len(options.seeds)}
    kinds = (f"sampled-{negatives}", "full")
    found, inside = {}, {}
    for name, of_name in whole.items():
        for scenario in read_config(of_name[0].path).evaluation.scenarios:
            for kind in kinds:
                of_kind = scored(of_name, "chosen", scenario, kind)
                if of_kind is not None:
                    found[name, scenario, kind] = of_kind
        for steps in {*STEPS, fine_steps(whole)}:
            paths = [probe_path(run, "cold", steps) for run in of_name]
            if all(path.exists() for path in paths):
                inside[name, steps] = _probe_values(paths)
    rows = []
    if {"table3", "table4", "fig3", "fig4"} & set(exhibits):
        models = [run for name in model_names(options, whole) for run in whole[name]]
        rows = summary_rows(models, ("cold", "warm"), kinds, ways=("chosen",))
    return Results(options, whole, missing, negatives, found, rows, inside)


def model_names(options: Options, runs: Mapping[str, Any]) -> list[str]:
    """The models of tables 3 and 4 that are there, metaCSR first."""
    return [name for name in dict.fromkeys(("metacsr", *options.models)) if runs.get(name)]


def values(
    results: Results,
    name: str,
    metric: str = "map",
    scenario: str = "cold",
    kind: str = "",
) -> np.ndarray | None:
    """A metric of each case at the chosen steps, mean over the training seeds; None where the run is missing.

    Args:
        results: all of them.
        name: of a run.
        metric: of `evaluation.metrics.METRICS`.
        scenario: "cold" or "warm".
        kind: of candidates; empty: the paper's ranking.
    """
    found = results.scored.get((name, scenario, kind or results.sampled))
    return None if found is None else found.metric_NM[:, METRICS.index(metric)]


def point(value_N: np.ndarray, level: float = 0.95) -> Point:
    """Mean over cases and its bootstrap interval."""
    interval = mean_interval(np.asarray(value_N)[:, None], RESAMPLES, level=level)
    return Point(*(float(end[0]) for end in interval))


def differences(pairs: Sequence[tuple[np.ndarray, np.ndarray]], level: float = 0.95) -> list[Point]:
    """Mean differences of pairs of values on the same cases, with paired bootstrap intervals from one set of resamples."""
    if not pairs:
        return []
    # The tails of a level near 1 want more resamples.
    resamples = RESAMPLES if level < 0.96 else 5 * RESAMPLES
    one_NP, other_NP = (np.stack(side, axis=1) for side in zip(*pairs, strict=True))
    interval = paired_interval(one_NP, other_NP, resamples, level=level)
    return [Point(*map(float, ends)) for ends in zip(*interval, strict=True)]


def difference(one_N: np.ndarray, other_N: np.ndarray) -> Point:
    """Mean difference on the same cases and its paired bootstrap interval."""
    return differences([(one_N, other_N)])[0]


def same_cases(results: Results, *names: str, scenario: str = "cold") -> bool:
    """Whether these runs are there and were ranked on the same users, targets and candidates."""
    found = [results.scored.get((name, scenario, results.sampled)) for name in names]
    if any(one is None for one in found):
        return False
    try:
        for one in found[1:]:
            check_same_cases(found[0].ranks, one.ranks, "one", "other")
    except WorkdirError:
        return False
    return True


def probes(results: Results, name: str, scenario: str, steps: int, place: int = 0) -> Probe | None:
    """What a seed's run looks like inside, by default the first one's; None where it was not looked into."""
    if not results.has(name):
        return None
    path = probe_path(results.runs[name][place], scenario, steps)
    return read_probe(path) if path.exists() else None


def history_values(results: Results, name: str, exhibit: str, metric: str) -> np.ndarray | None:
    """A metric of each version of the histories and case, [K, N], mean over the seeds."""
    if not results.has(name):
        return None
    found = []
    for run in results.runs[name]:
        path = histories_path(run, exhibit)
        if not path.exists():
            return None
        with np.load(path) as arrays:
            if not arrays["rank_KN"].size:  # too few users have a history
                return None
            metric_KNM = [
                per_case(rank_N, others_N)
                for rank_N, others_N in zip(arrays["rank_KN"], arrays["others_KN"], strict=True)
            ]
        found.append(np.array(metric_KNM)[:, :, METRICS.index(metric)])
    return np.mean(found, axis=0)


def items(results: Results, name: str, place: int = 0) -> np.ndarray | None:
    """Item vectors of a seed's run; None where they were not kept."""
    path = items_path(results.runs[name][place])
    return np.load(path) if path.exists() else None


def length_share(results: Results, name: str) -> float:
    """The share of its whole training's steps that a run was to take: a budget leaves one dispatch at least. 1 where nothing is trained."""
    done, whole = lengths(results, name)
    return done / whole if whole else 1.0


def lengths(results: Results, name: str) -> tuple[int, int]:
    """Steps that a run was to take, and those of its whole training."""
    config = read_config(results.runs[name][0].path)
    whole = base_config(results.options, config.train.model)
    done, planned = (of.train.pretrain_steps + of.train.steps for of in (config, whole))
    return done, planned


def _probe_values(paths: list[Path]) -> dict[str, np.ndarray]:
    found = []
    for path in paths:
        seen = read_probe(path)
        others_N = np.full(len(seen.rank_N), seen.score_NC1.shape[1] - 1)
        metric_NM = per_case(seen.rank_N, others_N)
        found.append(
            {
                "auc": metric_NM[:, METRICS.index("auc")],
                "map": metric_NM[:, METRICS.index("map")],
                "target_loss": seen.target_loss_N,
                "support_loss": seen.support_loss_N,
                "shift": seen.shift_N,
            }
        )
    return {name: np.mean([of[name] for of in found], axis=0) for name in found[0]}
