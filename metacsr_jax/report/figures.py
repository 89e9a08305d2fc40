"""Figures of training and evaluation.

Every function takes plain records, draws one file (the suffix picks the format: .png, .pdf, .svg)
and returns its path. All raise ImportError where matplotlib, the `plots` extra, is missing.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metacsr_jax.errors import DataError
from metacsr_jax.evaluation.metrics import MAX_CUTOFF, METRICS, chance
from metacsr_jax.report.style import (
    COLOURS,
    DASHES,
    GREY,
    MARKERS,
    Series,
    candidates_text,
    label_of,
    legend_below,
    looks_of,
    open_figure,
    steps_text,
    unique,
)
from metacsr_jax.report.table import title

Row = dict[str, Any]
Point = tuple[float, float, float]  # value, low, high
Points = dict[tuple[str, str, int, str], Point]  # by scenario, model, steps, metric


def training_curves(records: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> Path:
    """Loss and validation metrics over the steps of training.

    Args:
      records: lines of `metrics.jsonl`: those with `step`, `loss` and maybe `phase`; and those with
        `step` and `validation`, the AUC and MAP by number of adaptation steps. Other keys are
        ignored; a later record of a step replaces an earlier one, as after resuming.
      path: of the figure.

    Raises:
      DataError: no record has a loss.
    """
    loss: dict[str, dict[int, float]] = {}
    validation: dict[int, dict[int, Mapping[str, float]]] = {}
    for record in records:
        if "loss" in record:
            loss.setdefault(str(record.get("phase", "train")), {})[record["step"]] = record["loss"]
        for steps, metrics in record.get("validation", {}).items():
            validation.setdefault(int(steps), {})[record["step"]] = metrics
    if not loss:
        raise DataError("training curves: no record has a loss; expected lines of metrics.jsonl")
    metrics = ("map", "auc") if validation else ()
    with open_figure(path, columns=1 + len(metrics), width=3.9, height=2.9) as (_, axes):
        loss_axis, *metric_axes = axes[0]
        for place, (phase, values) in enumerate(loss.items()):
            colour = COLOURS[place % len(COLOURS)]
            step, value = _sorted(values)
            marker = "o" if len(value) == 1 else None
            loss_axis.plot(step, value, color=colour, alpha=0.3, linewidth=0.8)
            loss_axis.plot(step, _smooth(value), color=colour, label=phase, marker=marker)
        loss_axis.set(title="Training loss", xlabel="outer step")
        if len(loss) > 1:
            loss_axis.legend()
        for axis, metric in zip(metric_axes, metrics, strict=True):
            for place, steps in enumerate(sorted(validation)):
                step, value = _sorted({at: of[metric] for at, of in validation[steps].items()})
                look = {"color": COLOURS[place % len(COLOURS)], "label": steps_text(steps)}
                axis.plot(step, value, marker=MARKERS[place % len(MARKERS)], **look)
            axis.set(title=f"Validation {title(metric)}", xlabel="outer step")
        if metric_axes:
            metric_axes[0].legend(title="adaptation", alignment="left")
        for axis in axes[0]:
            axis.locator_params(axis="x", integer=True, nbins=6, min_n_ticks=1)
    return Path(path)


def metric_curves(
    rows: Iterable[Row],
    path: str | os.PathLike,
    candidates: str | None = None,
    also: Sequence[str] = (),
) -> Path:
    """Hit@N and NDCG@N for N = 1..20 with 95 % bands, a line per model and number of steps.

    Args:
      rows: evaluation rows of one data set; those of several training seeds are averaged.
      path: of the figure; it has two panels per scenario.
      candidates: which ranking; None takes the first one in the rows.
      also: further suffixes under which the figure is saved.

    Raises:
      DataError: no such row, or rows of several data sets.
    """
    points, candidates = _points(rows, candidates)
    series, scenarios = _series(points), unique(key[0] for key in points)
    looks = looks_of(series)
    with open_figure(path, len(scenarios), 2, width=4.2, height=3.0, also=also) as (figure, axes):
        for line, scenario in zip(axes, scenarios, strict=True):
            for axis, family in zip(line, ("hit", "ndcg"), strict=True):
                for name in series:
                    keys = {n: (scenario, *name, f"{family}@{n}") for n in range(1, MAX_CUTOFF + 1)}
                    label = label_of(name, series)
                    _draw_band(
                        axis, {n: points.get(key) for n, key in keys.items()}, label, looks[name]
                    )
                axis.set(title=f"{title(family)}@N, {scenario}", xlabel="N", xlim=(1, MAX_CUTOFF))
                axis.set_xticks([1, 5, 10, 15, 20])
                axis.set_ylim(bottom=0)
        legend_below(
            figure, axes, f"{candidates_text(candidates)}; bands: 95 % bootstrap intervals"
        )
    return Path(path)


def bars(
    rows: Iterable[Row],
    path: str | os.PathLike,
    candidates: str | None = None,
    metrics: Sequence[str] = ("auc", "map"),
) -> Path:
    """Models compared by AUC and MAP with 95 % intervals.

    The models are in the order of the first metric in the first scenario.

    Args:
      rows, path, candidates: as in `metric_curves`.
      metrics: a column of panels each.

    Raises:
      DataError: no such row, or rows of several data sets.
    """
    points, candidates = _points(rows, candidates)
    series, scenarios = _series(points), unique(key[0] for key in points)
    looks = looks_of(series)
    others = candidates.rpartition("-")[2]
    guess = dict(zip(METRICS, chance(int(others)), strict=True)) if others.isdigit() else {}
    guess["auc"] = 0.5

    def worth(name: Series) -> float:
        return points.get((scenarios[0], *name, metrics[0]), (-1.0,))[0]

    ordered = sorted(series, key=worth)  # the best one on top
    size = {"width": 4.4, "height": 0.9 + 0.27 * len(ordered)}
    with open_figure(path, len(scenarios), len(metrics), **size, sharey=True) as (figure, axes):
        for line, scenario in zip(axes, scenarios, strict=True):
            for axis, metric in zip(line, metrics, strict=True):
                found = {
                    place: (points[key], looks[name]["color"])
                    for place, name in enumerate(ordered)
                    if (key := (scenario, *name, metric)) in points
                }
                for place, (point, colour) in found.items():
                    _draw_bar(axis, place, point, colour)
                if metric in guess:
                    axis.axvline(guess[metric], color=GREY, linewidth=1, linestyle=":", zorder=3)
                longest = max((point[2] for point, _ in found.values()), default=0)
                axis.set_xlim(0, 1.16 * longest or 1)
                axis.set_yticks(range(len(ordered)), [label_of(name, series) for name in ordered])
                axis.tick_params(axis="y", length=0)
                axis.grid(axis="y", visible=False)
                axis.set(title=f"{title(metric)}, {scenario}")
        note = f"{candidates_text(candidates)}; 95 % bootstrap intervals; dotted: chance"
        figure.supxlabel(note, fontsize=8)
    return Path(path)


def adaptation_curve(
    rows: Iterable[Row], path: str | os.PathLike, candidates: str | None = None
) -> Path:
    """AUC and MAP over the number of adaptation steps with 95 % bands.

    Models scored at one number of steps are level lines; those far below or above are named with
    their value in the corner, so that they do not flatten the curves.

    Args:
      rows, path, candidates: as in `metric_curves`.

    Raises:
      DataError: no such row, rows of several data sets, or no model with two numbers of steps.
    """
    points, candidates = _points(rows, candidates)
    series, scenarios = _series(points), unique(key[0] for key in points)
    models = unique(model for model, _ in series)
    counts = {model: sorted(s for of, s in series if of == model) for model in models}
    ticks = sorted({s for steps in counts.values() if len(steps) > 1 for s in steps})
    if not ticks:
        raise DataError(
            f"adaptation curve: each of {', '.join(models)} has one number of adaptation steps; "
            "expected a model with two or more"
        )
    with open_figure(path, len(scenarios), 2, width=4.0, height=2.9) as (figure, axes):
        for line, scenario in zip(axes, scenarios, strict=True):
            for axis, metric in zip(line, ("auc", "map"), strict=True):
                level: dict[str, tuple[float, dict[str, Any]]] = {}
                for place, model in enumerate(models):
                    curve = {s: points.get((scenario, model, s, metric)) for s in counts[model]}
                    look = {"color": COLOURS[place % len(COLOURS)]}
                    if len(curve) > 1:
                        look["marker"] = MARKERS[place % len(MARKERS)]
                        _draw_band(axis, curve, model, look)
                    elif (point := next(iter(curve.values()))) is not None:
                        dashes = DASHES[1 + place % (len(DASHES) - 1)]
                        level[model] = (point[0], look | {"linestyle": dashes, "linewidth": 1.2})
                axis.set(
                    title=f"{title(metric)}, {scenario}", xlabel="adaptation steps", xticks=ticks
                )
                _draw_levels(axis, level)
        legend_below(
            figure, axes, f"{candidates_text(candidates)}; bands: 95 % bootstrap intervals"
        )
    return Path(path)


def _draw_band(
    axis: Any, curve: Mapping[int, Point | None], label: str, look: Mapping[str, Any]
) -> None:
    """A line through the values that are there, and the band of their intervals."""
    found = [(at, *point) for at, point in curve.items() if point]
    if found:
        at, value, low, high = np.array(found).T
        axis.plot(at, value, label=label, **look)
        axis.fill_between(at, low, high, color=look["color"], alpha=0.13, linewidth=0)


def _draw_bar(axis: Any, place: int, point: Point, colour: str) -> None:
    """A bar, its interval, and its value beside it."""
    value, low, high = point
    axis.barh(place, value, height=0.68, color=colour, alpha=0.8)
    whiskers = [[value - low], [high - value]]
    axis.errorbar(value, place, xerr=whiskers, color="#222222", capsize=2.5, elinewidth=1.1)
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    axis.annotate(f"{value:.3f}", (high, place), **beside)


def _draw_levels(axis: Any, level: Mapping[str, tuple[float, dict[str, Any]]]) -> None:
    """Level lines near the curves already drawn; the others in words."""
    low, high = axis.get_ylim()
    reach = 2 * (high - low) if axis.lines else np.inf
    far = []
    for model, (value, look) in level.items():
        if low - reach <= value <= high + reach:
            axis.axhline(value, label=model, **look)
        else:
            far.append(f"{model} {value:.3f}")
    if far:
        axis.text(
            0.99,
            0.02,
            "off the scale: " + ", ".join(far),
            transform=axis.transAxes,
            ha="right",
            fontsize=7.5,
            color=GREY,
        )
        axis.margins(y=0.12)


def _points(rows: Iterable[Row], candidates: str | None) -> tuple[Points, str]:
    """Points over all cases for one kind of candidates, averaged over the training seeds."""
    rows = [row for row in rows if row["subset"] == "all"]
    if candidates is None and rows:
        candidates = rows[0]["candidates"]
    rows = [row for row in rows if row["candidates"] == candidates]
    if not rows:
        raise DataError(
            f"figure: no row with subset 'all' and candidates {candidates!r}; expected some"
        )
    names = unique(row["dataset"] for row in rows)
    if len(names) > 1:
        raise DataError(f"figure: rows of the data sets {', '.join(names)}; expected those of one")
    groups: dict[tuple[str, str, int, str], list[Point]] = {}
    for row in rows:
        key = (row["scenario"], row["model"], row["adapt_steps"], row["metric"])
        groups.setdefault(key, []).append((row["value"], row["low"], row["high"]))
    return {key: tuple(np.mean(of, axis=0).tolist()) for key, of in groups.items()}, candidates


def _series(points: Points) -> list[Series]:
    """Pairs of model and steps: models as they come, steps ascending."""
    models = unique(key[1] for key in points)
    return sorted({key[1:3] for key in points}, key=lambda name: (models.index(name[0]), name[1]))


def _sorted(values: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps in order, and their values."""
    steps = sorted(values)
    return np.array(steps), np.array([values[step] for step in steps], float)


def _smooth(value: np.ndarray) -> np.ndarray:
    """A centred mean over about a twentieth of the curve, shorter at the ends."""
    total = np.concatenate([[0.0], np.cumsum(value)])
    place = np.arange(len(value))
    reach = np.minimum(len(value) // 40, np.minimum(place, len(value) - 1 - place))
    return (total[place + reach + 1] - total[place - reach]) / (2 * reach + 1)
