"""The files of a comparison: tables as csv, json and Markdown, and the pictures of the paper's Figures 3 and 4."""

import csv
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metacsr_jax.report.comparison import (
    TESTED,
    Finished,
    by_model,
    difference_rows,
    summary_rows,
)
from metacsr_jax.report.figures import metric_curves
from metacsr_jax.report.table import layout, number, title
from metacsr_jax.workdir import write_json

Row = dict[str, Any]
SHOWN = ("auc", "map", "hit@5", "hit@10", "ndcg@10")
SCENARIOS = {
    "cold": "Cold start (the paper's Table 3)",
    "warm": "Warm start (the paper's Table 4)",
}
LEAST = 20  # cases of a part that is worth a line; the csv has them all
FIGURES = {"cold": "figure-3-cold", "warm": "figure-4-warm"}


def settle(
    runs: Sequence[Finished],
    directory: Path,
    scenarios: Sequence[str],
    negatives: int,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Writes comparison.json, .csv, tests.csv, comparison.md and the figures.

    Args:
        runs: finished, of any models and seeds, at least one.
        directory: where to write.
        scenarios: which were evaluated.
        negatives: per case.
        notes: lines for the top of the Markdown file: what is missing.

    Returns:
        The files' paths.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kinds = (f"sampled-{negatives}", "full")
    rows = summary_rows(runs, scenarios, kinds)
    tests = difference_rows(runs, scenarios, kinds)
    files = [directory / name for name in ("comparison.json", "comparison.csv", "comparison.md")]
    write_json(files[0], {"metrics": rows, "tests": tests})
    files[1].write_text(_csv(rows), encoding="utf-8")
    files[2].write_text(markdown(runs, rows, tests, scenarios, kinds, notes), encoding="utf-8")
    if tests:
        files.append(directory / "tests.csv")
        files[-1].write_text(_csv(tests), encoding="utf-8")
    if find_spec("matplotlib"):  # the `plots` extra
        for scenario in scenarios:
            for kind in kinds:
                curves = [
                    {**row, "adapt_steps": 0}
                    for row in rows
                    if (row["way"], row["scenario"]) == ("chosen", scenario)
                ]
                path = directory / f"{FIGURES[scenario]}-{kind}.png"
                files.append(metric_curves(curves, path, kind))
    return files


def markdown(
    runs: Sequence[Finished],
    rows: Sequence[Row],
    tests: Sequence[Row],
    scenarios: Sequence[str],
    kinds: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """The whole report as Markdown."""
    seeds = sorted({run.seed for run in runs})
    parts = [
        f"# Comparison on {runs[0].dataset}",
        "Each model at the number of adaptation steps that validation users chose. Values are means over the training seeds "
        f"({', '.join(map(str, seeds))}; fewer where the column says so) with the bootstrap 95 % interval over users, and ± the "
        "standard deviation over seeds where there are several. The paper's figures are those of its own protocol.",
        *notes,
    ]
    for scenario in scenarios:
        parts.append(f"## {SCENARIOS[scenario]}")
        for kind in kinds:
            of_kind = [
                row for row in rows if (row["scenario"], row["candidates"]) == (scenario, kind)
            ]
            named = "the full catalogue" if kind == "full" else f"{kind.split('-')[1]} negatives"
            parts += [f"### Ranked among {named}", main_table(of_kind)]
            apart = subset_lines(of_kind)
            if apart:
                parts += [
                    "By target, seen in training or not, new to the history or repeated:",
                    apart,
                ]
            ways = ways_table(of_kind)
            if ways:
                parts += [
                    "With and without adaptation (best of one or more steps on validation users):",
                    ways,
                ]
            compared = [
                row for row in tests if (row["scenario"], row["candidates"]) == (scenario, kind)
            ]
            if compared:
                parts += [
                    "metaCSR minus each, on the same users: paired bootstrap 95 % interval, and p-values of the paired bootstrap and of "
                    "Wilcoxon's signed-rank test after Holm's correction over the models of this table:",
                    significance_table(compared),
                ]
    parts += ["## Time", times_table(runs)]
    return "\n\n".join(parts) + "\n"


def main_table(rows: Sequence[Row]) -> str:
    """One line per model at its chosen steps, best MAP first."""
    lines = _lines(row for row in rows if (row["way"], row["subset"]) == ("chosen", "all"))
    printed = any(row["paper"] is not None for row in rows)
    header = ["model", "seeds", "steps", *map(title, SHOWN)]
    body = []
    for found in sorted(lines.values(), key=lambda line: -line["map"]["value"]):
        first = found["map"]
        cells = [_cell(found[metric]) for metric in SHOWN]
        line = [first["model"], first["seeds"], first["steps"], *cells]
        if printed:
            line.append(
                ""
                if found["auc"]["paper"] is None
                else f"{number(found['auc']['paper'])}, {number(found['map']['paper'])}"
            )
        body.append(line)
    return layout([*header, "paper's AUC, MAP"] if printed else header, body, "markdown")


def ways_table(rows: Sequence[Row]) -> str:
    """AUC and MAP of models that adapt, not adapted and adapted; empty where none does."""
    lines = _lines(
        row for row in rows if row["way"] in ("none", "adapted") and row["subset"] == "all"
    )
    adapting = {model for model, way, _ in lines if way == "adapted"}
    body = [
        [model, found["map"]["steps"], _cell(found["auc"]), _cell(found["map"])]
        for (model, _, _), found in lines.items()
        if model in adapting
    ]
    return layout(["model", "steps", "AUC", "MAP"], body, "markdown") if body else ""


def subset_lines(rows: Sequence[Row]) -> str:
    """AUC and MAP of parts of the cases, models at their chosen steps; empty where all cases are of one sort."""
    sizes = {row["subset"]: row["cases"] for row in rows}
    apart = [
        name
        for pair in (("seen", "unseen"), ("new", "repeat"))
        for name in pair
        if min(sizes.get(of_pair, 0) for of_pair in pair) >= LEAST
    ]
    lines = _lines(row for row in rows if row["way"] == "chosen" and row["subset"] in apart)
    body = [
        [subset, model, _cell(found["auc"]), _cell(found["map"]), str(found["map"]["cases"])]
        for (model, _, subset), found in sorted(lines.items(), key=lambda item: item[0][2])
    ]
    return layout(["target", "model", "AUC", "MAP", "cases"], body, "markdown") if body else ""


def significance_table(rows: Sequence[Row]) -> str:
    """Differences in MAP and NDCG@10 with their p-values, in the order of the difference."""
    lines: dict[str, dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(row["model"], {})[row["metric"]] = row
    header, body = ["minus"], []
    for metric in TESTED[:2]:
        header += [title(metric), "p bootstrap", "p Wilcoxon"]
    for model, found in sorted(lines.items(), key=lambda item: item[1]["map"]["difference"]):
        line = [model]
        for metric in TESTED[:2]:
            row = found[metric]
            line.append(f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
            line += [f"{row['bootstrap_p_holm']:.2g}", f"{row['wilcoxon_p_holm']:.2g}"]
        body.append(line)
    return layout(header, body, "markdown")


def times_table(runs: Sequence[Finished]) -> str:
    """Minutes of wall time, by model: mean over seeds; blank where the work directory was not trained or evaluated by a comparison."""
    body = []
    for model, of_model in by_model(runs).items():
        minutes = [
            sum(getattr(run, name) for run in of_model) / len(of_model) / 60
            for name in ("train_seconds", "evaluate_seconds")
        ]
        body.append([model, *(f"{value:.1f}" if value else "" for value in minutes)])
    return layout(["model", "minutes: train and validate", "evaluate"], body, "markdown")


def _lines(rows) -> dict[tuple[str, str, str], dict[str, Row]]:
    """Rows by model, way and subset, then by metric."""
    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["model"], row["way"], row["subset"]), {})[row["metric"]] = row
    return lines


def _cell(row: Row) -> str:
    spread = "" if row["deviation"] is None else f" ± {number(row['deviation'])}"
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]{spread}"


def _csv(rows: Sequence[Row]) -> str:
    table = io.StringIO()
    lines = csv.DictWriter(table, rows[0], lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return table.getvalue()
