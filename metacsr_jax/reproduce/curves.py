"""Figures 5 and 12, and beyond the paper: length of history, order, users who come late."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metacsr_jax.config import Config
from metacsr_jax.report.paper import RIVALS
from metacsr_jax.report.table import title
from metacsr_jax.reproduce.exhibit import Exhibit, Picture, Table
from metacsr_jax.reproduce.pictures import Lines, draw_lines, draw_points
from metacsr_jax.reproduce.plan import (
    TIES_MODELS,
    TIME_MODELS,
    base_config,
    length_name,
    share_name,
)
from metacsr_jax.reproduce.results import (
    Results,
    difference,
    history_values,
    lengths,
    point,
    same_cases,
    values,
)
from metacsr_jax.workdir import read_manifest


def amount(results: Results, directory: Path) -> Exhibit:
    """Figure 5: metaCSR on a share of the regular users, against the paper's baselines on all of them."""
    panels, body = [], []
    for metric in ("auc", "map"):
        line = {
            100 * share: point(found)
            for share in sorted({*results.options.shares, 1.0})
            if (found := values(results, share_name(share), metric)) is not None
        }
        levels = {
            name: float(found.mean())
            for name in RIVALS
            if (found := values(results, name, metric)) is not None
        }
        panels.append(
            Lines(
                title(metric),
                "regular users trained on (%)",
                title(metric),
                {"metaCSR": line},
                levels,
            )
        )
        best = _best_by_validation(results, list(levels))
        for share, own in line.items():
            name, lead = share_name(share / 100), None
            if best and same_cases(results, name, best):
                lead = difference(*(values(results, of, metric) for of in (name, best)))
            body.append([f"{share:g} %", title(metric), own, best, lead])
    if not body:
        return Exhibit("fig5", text=["Not measured."])
    header = [
        "users",
        "metric",
        "metaCSR",
        "the paper's baseline with the best validation MAP, all users",
        "difference",
    ]
    path = draw_lines(panels, directory / "fig5.png")
    alt = (
        "AUC and MAP of metaCSR against the share of the regular users; dotted: baselines with all"
    )
    text = (
        f"{lengths(results, 'metacsr')[0]:,} updates with every share; the best checkpoint by validation counts. "
        "A larger share holds all users of a smaller one."
    )
    return Exhibit(
        "fig5", [Table("fig5", header, body, "Cold start.")], [Picture(path, alt)], [text]
    )


def context(results: Results, directory: Path) -> Exhibit:
    """Figure 12: length T of the input, cold and warm."""
    panels, body = [], []
    for metric in ("auc", "map"):
        lines = {}
        for scenario in ("cold", "warm"):
            line = {
                length: point(found)
                for length in sorted({*results.options.lengths, _own(results).model.max_length})
                if (
                    found := values(results, length_name(results.options, length), metric, scenario)
                )
                is not None
            }
            if line:
                lines[scenario] = line
            body += [[scenario, title(metric), length, value] for length, value in line.items()]
        panels.append(Lines(title(metric), "T (events)", title(metric), lines))
    path = draw_lines(panels, directory / "fig12.png")
    keep = _own(results).protocol.keep_new
    text = (
        f"New users have at most {keep - 1} events of context (protocol.keep_new={keep}): "
        "a longer T changes training and warm cases only."
    )
    table = Table("fig12", ["start", "metric", "T", "value"], body)
    alt = "AUC and MAP against the length of the input"
    return Exhibit("fig12", [table], [Picture(path, alt)], [text])


def coldness(results: Results, directory: Path) -> Exhibit:
    """The same new users with their latest 1, 2, ... events."""
    panels, body, count = [], [], 0
    for metric in ("auc", "map"):
        lines = {}
        for name in results.options.order_models:
            found = history_values(results, name, "length", metric)
            if found is not None and len(found):
                count = found.shape[1]
                lines[name] = {length: point(of) for length, of in enumerate(found, 1)}
                body += [[name, title(metric), length, at] for length, at in lines[name].items()]
        panels.append(Lines(title(metric), "events of history", title(metric), lines))
    if not body:
        return Exhibit("length", text=["Not measured."])
    path = draw_lines(panels, directory / "length.png")
    text = (
        f"The same {count:,} new users at every length, with their latest events; "
        "adaptation, where a model adapts, has the support that these leave."
    )
    table = Table("length", ["model", "metric", "events", "value"], body, "Cold start.")
    return Exhibit(
        "length", [table], [Picture(path, "AUC and MAP against length of history")], [text]
    )


def order(results: Results, directory: Path) -> Exhibit:
    """Histories shuffled at test, and ties broken by the file's order instead of a hash."""
    body, panels = [], {"AUC": {}, "MAP": {}}
    for name in results.options.order_models:
        for metric in ("auc", "map"):
            found = history_values(results, name, "order", metric)
            if found is None:
                continue
            lead = difference(found[1:].mean(0), found[0])
            panels[title(metric)][name] = lead
            body.append([name, title(metric), point(found[0]), point(found[1:].mean(0)), lead])
    header = ["model", "metric", "as it was", "history shuffled", "difference"]
    tables = [
        Table("order-shuffle", header, body, "New users' histories in random order, mean of three.")
    ]
    body = []
    for name in TIES_MODELS:
        for metric in ("auc", "map"):
            pair = [values(results, of, metric) for of in (name, f"{name}-ties-file")]
            if all(of is not None for of in pair):
                body.append([name, title(metric), *map(point, pair)])
    if body:
        header = ["model", "metric", "ties by hash", "ties by the file's order"]
        text = "Not paired: another order makes other targets."
        tables.append(Table("order-ties", header, body, text))
    if not any(panels.values()):
        return Exhibit("order", [table for table in tables if table.body], text=["Not measured."])
    path = draw_points(panels, directory / "order.png", "shuffled minus as it was", zero=True)
    return Exhibit("order", tables, [Picture(path, "What shuffling new users' histories changes")])


def newcomers(results: Results, directory: Path) -> Exhibit:
    """The stricter protocol: users who start after everybody's cut in time."""
    del directory
    body = []
    for name in TIME_MODELS:
        for metric in ("auc", "map"):
            own, late = (values(results, of, metric) for of in (name, f"{name}-time"))
            if late is None:
                continue
            lead = None
            if name != "metacsr" and same_cases(results, "metacsr-time", f"{name}-time"):
                lead = difference(values(results, "metacsr-time", metric), late)
            before = None if own is None else point(own)
            body.append([name, title(metric), before, point(late), lead, len(late)])
    header = [
        "model",
        "metric",
        "least active users new",
        "latest users new",
        "metaCSR minus, latest",
        "cases, latest",
    ]
    text = [] if body else ["Not measured: the log has no times, or no users who start late."]
    return Exhibit("time", [Table("time", header, body)] if body else [], text=text)


def _own(results: Results) -> Config:
    """metaCSR's settings before any variant's."""
    return base_config(results.options)


def _best_by_validation(results: Results, names: Sequence[str]) -> str | None:
    """The run that validation users like best, by mean MAP at its chosen steps; not by test users, whose best would be too high."""

    def worth(name: str) -> float:
        found = []
        for run in results.runs[name]:
            manifest = read_manifest(run.path)
            found.append(manifest["validation"][str(manifest["chosen_adapt_steps"])]["map"])
        return float(np.mean(found))

    return max(names, key=worth, default=None)
