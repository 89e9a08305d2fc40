"""Tables and tests over the finished runs of a comparison.

Dimension key: N cases of a scenario, S training seeds, M metrics, K models besides metaCSR.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.rows import RankFile, ranks_path, read_ranks
from metacsr_jax.evaluation.significance import holm, mean_interval, paired_test
from metacsr_jax.report.paper import printed

Row = dict[str, Any]
WAYS = ("none", "adapted")  # not adapted, or with the best of one or more steps on validation users
TESTED = ("auc", "map", "hit@10", "ndcg@10")
REFERENCE = "metacsr"


class Finished(NamedTuple):
    """A finished run as the report reads it.

    Attributes:
        model: name.
        seed: of training.
        path: its work directory.
        dataset: label of the log.
        steps: adaptation steps by way ("none": 0); "adapted" is missing where nothing adapts.
        chosen: the way that validation users chose.
        train_seconds: wall time of training with its validations.
        evaluate_seconds: wall time of evaluation.
    """

    model: str
    seed: int
    path: Path
    dataset: str
    steps: Mapping[str, int]
    chosen: str
    train_seconds: float
    evaluate_seconds: float


class Scored(NamedTuple):
    """A model's metrics per case, averaged over its seeds.

    Attributes:
        metric_NM: mean over seeds.
        seed_mean_SM: means over cases by seed.
        ranks: of one seed, for who the cases are.
        steps: adaptation steps, one per seed.
        chosen: how many of the seeds chose this way.
    """

    metric_NM: np.ndarray
    seed_mean_SM: np.ndarray
    ranks: RankFile
    steps: tuple[int, ...]
    chosen: int


def scored(runs: Sequence[Finished], way: str, scenario: str, candidates: str) -> Scored | None:
    """Reads the ranks of one model's seeds; None where a seed lacks this way.

    Args:
        runs: of one model.
        way: of `WAYS`, or "chosen": each seed at what it chose.
        scenario, candidates: which ranks.

    Raises:
        WorkdirError: ranks are missing, or the seeds were not ranked on the same cases.
    """
    if way != "chosen" and any(way not in run.steps for run in runs):
        return None
    steps = tuple(run.steps[run.chosen if way == "chosen" else way] for run in runs)
    files = [
        read_ranks(ranks_path(run.path, scenario, candidates, count))
        for run, count in zip(runs, steps, strict=True)
    ]
    for run, file in zip(runs, files, strict=True):
        check_same_cases(files[0], file, runs[0].path, run.path)
    metrics = [per_case(file.rank, file.others) for file in files]
    return Scored(
        np.mean(metrics, axis=0),
        np.array([metric_NM.mean(axis=0) for metric_NM in metrics]),
        files[0],
        steps,
        sum(run.chosen == way or way == "chosen" for run in runs),
    )


def check_same_cases(one: RankFile, other: RankFile, here: Path, there: Path) -> None:
    """Raises WorkdirError where two rank files are not of the same users, targets and numbers of candidates."""
    for name in ("user", "target", "others"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise WorkdirError(
                f"{here} and {there}: ranked with another `{name}`; expected runs on one protocol"
            )


def summary_rows(
    runs: Iterable[Finished],
    scenarios: Sequence[str],
    kinds: Sequence[str],
    resamples: int = 1000,
    ways: Sequence[str] = (*WAYS, "chosen"),
) -> list[Row]:
    """Every metric of every model: mean over seeds, bootstrap 95 % interval over users, spread over seeds.

    Args:
        runs: finished, of any models and seeds.
        scenarios: "cold", "warm".
        kinds: of candidates.
        resamples: of the bootstrap.
        ways: which.

    Returns:
        Flat rows: dataset, model, way ("none", "adapted", "chosen"), steps (by seed), seeds, scenario, subset, candidates, metric,
        value, low, high, deviation (standard deviation over seeds, None for one), cases, paper (its own figure, None without).
    """
    rows = []
    for model, of_model in by_model(runs).items():
        for scenario in scenarios:
            for kind in kinds:
                for way in ways:
                    of_way = scored(of_model, way, scenario, kind)
                    if of_way is not None:
                        start = {
                            "dataset": of_model[0].dataset,
                            "model": model,
                            "way": way,
                            "steps": ",".join(map(str, of_way.steps)),
                            "seeds": ",".join(str(run.seed) for run in of_model),
                            "scenario": scenario,
                        }
                        rows += _metric_rows(start, of_way, kind, resamples)
    return rows


def _metric_rows(start: Row, of_way: Scored, kind: str, resamples: int) -> list[Row]:
    ranks, rows = of_way.ranks, []
    everyone = np.ones(len(ranks.rank), bool)
    subsets = {
        "all": everyone,
        "seen": ranks.seen,
        "unseen": ~ranks.seen,
        "new": ~ranks.repeat,
        "repeat": ranks.repeat,
    }
    for subset, member_N in subsets.items():
        cases = int(member_N.sum())
        if not cases or (subset != "all" and cases == everyone.size):
            continue
        interval = mean_interval(of_way.metric_NM[member_N], resamples)
        for place, metric in enumerate(METRICS):
            of_seeds_S = of_way.seed_mean_SM[:, place]
            whole = subset == "all"
            rows.append(
                {
                    **start,
                    "subset": subset,
                    "candidates": kind,
                    "metric": metric,
                    "value": float(interval.value_M[place]),
                    "low": float(interval.low_M[place]),
                    "high": float(interval.high_M[place]),
                    "deviation": float(of_seeds_S.std(ddof=1))
                    if whole and of_seeds_S.size > 1
                    else None,
                    "cases": cases,
                    "paper": printed(start["dataset"], start["model"], start["scenario"], metric)
                    if whole and start["way"] == "chosen" and kind != "full"
                    else None,
                }
            )
    return rows


def difference_rows(
    runs: Iterable[Finished],
    scenarios: Sequence[str],
    kinds: Sequence[str],
    resamples: int = 10_000,
) -> list[Row]:
    """metaCSR minus each other model on the same users and training seeds, each at the steps it chose, with p-values.

    Args:
        runs, scenarios, kinds: as in `summary_rows`.
        resamples: of the bootstrap.

    Returns:
        Flat rows: scenario, candidates, metric, model, seeds (those that both have), difference, low, high (paired bootstrap 95 %),
        bootstrap_p, wilcoxon_p, and both after Holm's correction over the models of one scenario, kind of candidates and metric; none
        where metaCSR is missing, or for a model that shares no seed with it.

    Raises:
        WorkdirError: two models were ranked on other cases.
    """
    models, rows = by_model(runs), []
    if REFERENCE not in models or len(models) < 2:
        return rows
    places = [METRICS.index(metric) for metric in TESTED]
    for scenario in scenarios:
        for kind in kinds:
            tests, shared = {}, {}
            for model, of_model in models.items():
                pairs = _same_seeds(models[REFERENCE], of_model)
                if model == REFERENCE or not pairs[0]:
                    continue
                own, other = (scored(of_pair, "chosen", scenario, kind) for of_pair in pairs)
                check_same_cases(own.ranks, other.ranks, pairs[0][0].path, pairs[1][0].path)
                shared[model] = ",".join(str(run.seed) for run in pairs[0])
                pair = own.metric_NM[:, places], other.metric_NM[:, places]
                tests[model] = paired_test(*pair, resamples)
            for place, metric in enumerate(TESTED):
                bootstrap_K = [test.bootstrap_p_M[place] for test in tests.values()]
                wilcoxon_K = [test.wilcoxon_p_M[place] for test in tests.values()]
                columns = zip(
                    tests.items(),
                    bootstrap_K,
                    holm(bootstrap_K),
                    wilcoxon_K,
                    holm(wilcoxon_K),
                    strict=True,
                )
                for (model, test), *p_values in columns:
                    interval = (float(end[place]) for end in test.interval)
                    names = ("bootstrap_p", "bootstrap_p_holm", "wilcoxon_p", "wilcoxon_p_holm")
                    rows.append(
                        {
                            "scenario": scenario,
                            "candidates": kind,
                            "metric": metric,
                            "model": model,
                            "seeds": shared[model],
                            **dict(zip(("difference", "low", "high"), interval, strict=True)),
                            **dict(zip(names, map(float, p_values), strict=True)),
                            "cases": len(own.ranks.rank),
                        }
                    )
    return rows


def _same_seeds(
    own: Sequence[Finished], others: Sequence[Finished]
) -> tuple[list[Finished], list[Finished]]:
    """The runs of two models with the training seeds that both have."""
    common = {run.seed for run in own} & {run.seed for run in others}
    return [run for run in own if run.seed in common], [run for run in others if run.seed in common]


def by_model(runs: Iterable[Finished]) -> dict[str, list[Finished]]:
    """Runs of each model, in the order they come."""
    models: dict[str, list[Finished]] = {}
    for run in runs:
        models.setdefault(run.model, []).append(run)
    return models
