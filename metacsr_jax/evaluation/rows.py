"""Flat rows of metrics and per-case ranks, as they lie in a work directory's `evaluation/`.

Dimension key: N cases of one scenario, U users, I items of the catalogue, M metrics.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.ranking import Ranks
from metacsr_jax.evaluation.significance import Interval, mean_interval, paired_interval
from metacsr_jax.files import write_whole

if TYPE_CHECKING:
    from metacsr_jax.protocol import Cases

Row = dict[str, Any]

KEYS = (
    "model",
    "dataset",
    "seed",
    "scenario",
    "subset",
    "candidates",
    "adapt_steps",
    "metric",
    "value",
    "low",
    "high",
    "cases",
)
SUBSETS = ("all", "seen", "unseen", "new", "repeat")
# An evaluation, whose rows are replaced together.
_RUN = ("model", "dataset", "seed", "scenario", "candidates", "adapt_steps")


class RankFile(NamedTuple):
    """One `ranks-*.npz`: N cases in the order of the protocol."""

    rank: np.ndarray  # float32 [N], 0-based mean rank under ties
    others: np.ndarray  # int32 [N], candidates besides the target
    user: np.ndarray  # [N], original ids
    target: np.ndarray  # [N], original ids
    seen: np.ndarray  # bool [N], target among the training events of regular users
    repeat: np.ndarray  # bool [N], target in the case's own history


def metric_rows(
    ranks: Mapping[str, Ranks],
    cases: "Cases",
    *,
    model: str,
    dataset: str,
    seed: int,
    scenario: str,
    adapt_steps: int,
    resamples: int = 1000,
) -> list[Row]:
    """Every metric of every subset with its bootstrap 95 % interval.

    The subsets are all cases; those whose target was seen or unseen in training; those whose target
    is new to the case's history or a repeat. One without cases gives no row.

    Args:
      ranks: by the name of the candidates, as `rank_cases` returns them.
      cases: the N ranked cases.
      model, dataset, seed, scenario, adapt_steps: what the rows say of themselves; seed is the
        training seed.
      resamples: of the bootstrap, which has a fixed seed: the same ranks give the same rows.

    Returns:
      Rows with exactly the keys `KEYS`.
    """
    seen_N, repeat_N = np.asarray(cases.seen_N, bool), np.asarray(cases.repeat_N, bool)
    members = (np.ones_like(seen_N), seen_N, ~seen_N, ~repeat_N, repeat_N)
    # One bootstrap for all candidates: they share the cases, and so the resamples.
    metric_NM = np.concatenate([per_case(*of) for of in ranks.values()], axis=1)
    names = [(candidates, metric) for candidates in ranks for metric in METRICS]
    rows = []
    for subset, member_N in zip(SUBSETS, members, strict=True):
        count = int(member_N.sum())
        if not count:
            continue
        interval = mean_interval(metric_NM[member_N], resamples)
        for (candidates, metric), *numbers in zip(names, *interval, strict=True):
            value, low, high = map(float, numbers)
            run = (model, dataset, int(seed), scenario, subset, candidates, int(adapt_steps))
            rows.append(dict(zip(KEYS, (*run, metric, value, low, high, count), strict=True)))
    return rows


def merge_rows(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """New rows, and of the old ones those of other evaluations, in a fixed order.

    An evaluation is a (model, dataset, seed, scenario, candidates, adapt_steps); its old rows go
    together, also where the new ones have fewer subsets.
    """
    new = list(new)
    replaced = {_run(row) for row in new}
    kept = [row for row in old if _run(row) not in replaced]
    return sorted(
        kept + new,
        key=lambda row: (*_run(row), SUBSETS.index(row["subset"]), METRICS.index(row["metric"])),
    )


def write_rows(workdir: str | os.PathLike, rows: Iterable[Row]) -> list[Row]:
    """Merges rows into `evaluation/rows.json` and `rows.csv`; returns all rows now there.

    Raises:
      WorkdirError: the rows already there are not a list of objects with the keys `KEYS`.
    """
    directory = Path(workdir, "evaluation")
    old = read_rows(workdir) if (directory / "rows.json").exists() else []
    merged = merge_rows(old, rows)

    table = io.StringIO()
    lines = csv.DictWriter(table, KEYS, lineterminator="\n")
    lines.writeheader()
    lines.writerows(merged)
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in merged) + "\n]\n"
    write_whole(directory / "rows.csv", lambda file: file.write(table.getvalue().encode()))
    write_whole(directory / "rows.json", lambda file: file.write(text.encode()))
    return merged


def read_rows(workdir: str | os.PathLike) -> list[Row]:
    """Rows of `evaluation/rows.json`.

    Raises:
      WorkdirError: the file is missing, no JSON, or not a list of objects with the keys `KEYS`.
    """
    path = Path(workdir, "evaluation", "rows.json")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkdirError(f"{path}: missing; expected the rows of an evaluation") from None
    except ValueError as error:
        raise WorkdirError(f"{path}: {error}; expected a JSON list of rows") from None
    if not isinstance(rows, list):
        raise WorkdirError(f"{path}: holds a {type(rows).__name__}; expected a list of rows")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(KEYS):
            raise WorkdirError(
                f"{path}: row {number} is {row!r}; expected the keys {', '.join(KEYS)}"
            )
        if row["subset"] not in SUBSETS or row["metric"] not in METRICS:
            raise WorkdirError(
                f"{path}: row {number} has subset {row['subset']!r} and metric {row['metric']!r}; "
                f"expected one of {', '.join(SUBSETS)} and a metric of this version"
            )
    return rows


def ranks_path(workdir: str | os.PathLike, scenario: str, candidates: str, steps: int) -> Path:
    """`evaluation/ranks-<scenario>-<candidates>-<steps>.npz` of a work directory."""
    return Path(workdir, "evaluation", f"ranks-{scenario}-{candidates}-{steps}.npz")


def write_ranks(
    workdir: str | os.PathLike,
    ranks: Mapping[str, Ranks],
    cases: "Cases",
    *,
    scenario: str,
    adapt_steps: int,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
) -> list[Path]:
    """Writes the ranks of every case, one file per kind of candidates.

    Args:
      workdir: the work directory.
      ranks: by the name of the candidates.
      cases: the N ranked cases.
      scenario, adapt_steps: parts of the file names.
      user_ids, item_ids: [U] and [I], original ids by code.

    Returns:
      The paths, in the order of `ranks`; each file holds the arrays of `RankFile`.
    """
    paths = []
    for candidates, (rank_N, others_N) in ranks.items():
        content = RankFile(
            rank=np.asarray(rank_N, np.float32),
            others=np.asarray(others_N, np.int32),
            user=user_ids[cases.user_N],
            target=item_ids[cases.target_N],
            seen=np.asarray(cases.seen_N, bool),
            repeat=np.asarray(cases.repeat_N, bool),
        )
        path = ranks_path(workdir, scenario, candidates, adapt_steps)
        write_whole(path, partial(_write_arrays, content))
        paths.append(path)
    return paths


def read_ranks(path: str | os.PathLike) -> RankFile:
    """Ranks written by `write_ranks`.

    Raises:
      WorkdirError: the file is missing, unreadable or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return RankFile(*(arrays[name] for name in RankFile._fields))
    except FileNotFoundError:
        raise WorkdirError(f"{path}: missing; expected the ranks of an evaluation") from None
    except Exception as error:  # zipfile, zlib, pickle and key errors all mean the same here
        raise WorkdirError(
            f"{path}: {error}; expected arrays {', '.join(RankFile._fields)}"
        ) from error


def paired_difference(ranks: RankFile, baseline: RankFile, resamples: int = 1000) -> Interval:
    """Mean of every metric minus the baseline's, with its paired bootstrap 95 % interval.

    Raises:
      WorkdirError: the two do not hold the same users and targets in the same order.
    """
    if not (
        np.array_equal(ranks.user, baseline.user) and np.array_equal(ranks.target, baseline.target)
    ):
        raise WorkdirError(
            f"ranks: {len(ranks.user)} and {len(baseline.user)} cases with other users or targets; "
            "expected two evaluations of one protocol and scenario"
        )
    if not np.array_equal(ranks.others, baseline.others):
        raise WorkdirError(
            f"ranks: among {ranks.others.mean():g} and {baseline.others.mean():g} other candidates on average; "
            "expected the same kind of candidates"
        )
    metric_NM = per_case(ranks.rank, ranks.others)
    return paired_interval(metric_NM, per_case(baseline.rank, baseline.others), resamples)


def _write_arrays(content: RankFile, file: IO[bytes]) -> None:
    """The arrays of a rank file as npz."""
    np.savez_compressed(file, **content._asdict())


def _run(row: Row) -> tuple:
    """The evaluation a row belongs to."""
    return tuple(row[key] for key in _RUN)
