"""The pictures of the page: lines with bands, points with intervals, clouds, histograms; each as PNG and SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metacsr_jax.analysis.clouds import common_edges
from metacsr_jax.report.style import COLOURS, DASHES, GREY, MARKERS, open_figure, unique
from metacsr_jax.reproduce.results import Point

FORMATS = (".svg",)  # besides PNG
SAMPLE = 600  # vectors of a cloud that are drawn: t-SNE of more takes minutes
WIDTH = 3.7  # of a panel, inches


class Lines(NamedTuple):
    """A panel of lines.

    Attributes:
        title, xlabel, ylabel: texts; units where there are any.
        lines: label -> x -> point.
        levels: label -> value, as dotted level lines.
        log: a logarithmic vertical axis.
    """

    title: str
    xlabel: str
    ylabel: str
    lines: Mapping[str, Mapping[float, Point]]
    levels: Mapping[str, float] = {}
    log: bool = False


def draw_lines(panels: Sequence[Lines], path: Path, columns: int = 2) -> Path:
    """Panels of lines with their intervals as bands, and one legend."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    labels = unique(label for panel in panels for label in panel.lines)
    levels = unique(label for panel in panels for label in panel.levels)
    with open_figure(path, rows, columns, width=WIDTH, height=2.9, also=FORMATS) as (figure, axes):
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            for label, line in panel.lines.items():
                if not line:
                    continue
                place = labels.index(label)
                look = {
                    "color": COLOURS[place % len(COLOURS)],
                    "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
                }
                x, value, low, high = np.array([(at, *of) for at, of in sorted(line.items())]).T
                marker = MARKERS[place % len(MARKERS)]
                axis.plot(x, value, label=label, marker=marker, **look)
                axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
            for label, value in panel.levels.items():
                place = levels.index(label)
                dashes = DASHES[1 + place % (len(DASHES) - 1)]
                # Greys and dashes: the level lines are a backdrop.
                shade = str(0.25 + 0.5 * place / max(1, len(levels) - 1))
                axis.axhline(value, label=label, color=shade, linestyle=dashes, linewidth=1.1)
            axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
            if panel.log:
                axis.set_yscale("log")
        _legend(figure, axes)
    return path


def draw_points(
    panels: Mapping[str, Mapping[str, Point]],
    path: Path,
    xlabel: str,
    zero: bool = False,
) -> Path:
    """A line per name, a panel per title: the value as a dot and its interval as a bar, the first name on top.

    Args:
        panels: title -> name -> point.
        path: of the picture.
        xlabel: of all panels.
        zero: mark 0, for differences.
    """
    names = unique(name for panel in panels.values() for name in panel)
    height = 1.0 + 0.27 * len(names)
    size = {"width": WIDTH + 0.4, "height": height, "sharey": True, "also": FORMATS}
    with open_figure(path, 1, len(panels), **size) as (_, axes):
        for axis, (heading, panel) in zip(axes[0], panels.items(), strict=True):
            for name, (value, low, high) in panel.items():
                row = len(names) - 1 - names.index(name)
                colour = COLOURS[0] if name == "metacsr" else "#444444"
                axis.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.6)
                axis.plot(value, row, "o", color=colour)
            if zero:
                axis.axvline(0, color=GREY, linewidth=1, linestyle=":")
            axis.set_ylim(-0.6, len(names) - 0.4)
            axis.set_yticks(range(len(names)), names[::-1])
            axis.grid(axis="y", visible=False)
            axis.set(title=heading, xlabel=xlabel)
    return path


def draw_slopes(
    points: Mapping[str, tuple[float, float]], path: Path, headings: tuple[str, str]
) -> Path:
    """Places of every name by two values, the highest on top, joined by a line.

    Args:
        points: name -> both values.
        path: of the picture.
        headings: of the two sides.
    """
    names = list(points)
    places = []
    for side in (0, 1):
        order = sorted(names, key=lambda name: -points[name][side])
        places.append({name: place for place, name in enumerate(order, 1)})
    height = 1.0 + 0.24 * len(names)
    with open_figure(path, width=6.2, height=height, also=FORMATS) as (_, axes):
        axis = axes[0, 0]
        for name in names:
            ends = [of[name] for of in places]
            own = name == "metacsr"
            look = {"color": COLOURS[0] if own else "#444444"}
            axis.plot([0, 1], ends, "-o", linewidth=2.2 if own else 1.0, markersize=4, **look)
            for side, (place, align) in enumerate(zip(ends, ("right", "left"), strict=True)):
                text = f"{points[name][side]:.3f}"
                text = f"{name}  {text}" if side == 0 else f"{text}  {name}"
                at = (-0.04, 1.04)[side]
                axis.text(at, place, text, ha=align, va="center", fontsize=8, **look)
        axis.set(xlim=(-0.75, 1.75), ylim=(len(names) + 0.7, 0.3))
        axis.set_xticks([0, 1], headings)
        axis.set_yticks(range(1, len(names) + 1))
        axis.set_ylabel("place (1: highest)")
        axis.grid(visible=False)
    return path


def draw_clouds(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
    looks: Mapping[str, Mapping[str, object]],
) -> Path:
    """t-SNE of the clouds of each panel, embedded together.

    Args:
        panels: title -> name -> vectors [N, D]; at most `SAMPLE` of each are drawn.
        path: of the picture.
        looks: name -> colour, marker and size, the same in all pictures.

    Raises:
        ImportError: matplotlib or scikit-learn, the `plots` extra, is missing.
    """
    size = {"width": WIDTH, "height": 3.3, "also": FORMATS}
    with open_figure(path, 1, len(panels), **size) as (figure, axes):
        for axis, (heading, clouds) in zip(axes[0], panels.items(), strict=True):
            drawn = {name: _some(vector_ND) for name, vector_ND in clouds.items()}
            place_N2 = embed(np.concatenate(list(drawn.values())))
            start = 0
            for name, vector_ND in drawn.items():
                part_N2 = place_N2[start : start + len(vector_ND)]
                start += len(vector_ND)
                # Points as one image inside the SVG: thousands of paths would weigh megabytes.
                axis.scatter(
                    *part_N2.T,
                    label=name,
                    alpha=0.55,
                    linewidths=0.7,
                    rasterized=True,
                    **looks[name],
                )
            axis.set(title=heading, xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
            axis.set_xticks([])
            axis.set_yticks([])
        _legend(figure, axes)
    return path


def embed(vector_ND: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE (scikit-learn, started from principal components) of vectors [N, D] in the plane."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(
            't-SNE needs scikit-learn, which is not installed: pip install "metacsr_jax[plots]"'
        ) from error
    perplexity = min(30.0, (len(vector_ND) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return model.fit_transform(np.asarray(vector_ND, np.float32))


def draw_similarities(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], notes: Sequence[str], path: Path
) -> Path:
    """Histograms of the similarities of positive and negative pairs, two panels a line.

    Args:
        panels: title -> similarities of the held-out items [N] and of the negatives [N, C].
        notes: a line inside each panel.
        path: of the picture.
    """
    rows = -(-len(panels) // 2)
    size = {"width": WIDTH, "height": 2.7, "also": FORMATS}
    with open_figure(path, rows, 2, **size) as (figure, axes):
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (heading, pair), note in zip(axes.flat, panels.items(), notes, strict=False):
            edges_B1 = common_edges(*pair)
            for place, (label, value) in enumerate(
                zip(("positive pairs", "negative pairs"), pair, strict=True)
            ):
                weight = np.full(value.size, 1 / value.size)
                look = {"color": COLOURS[place], "alpha": 0.5, "label": label}
                inside = np.clip(value.ravel(), edges_B1[0], edges_B1[-1])
                axis.hist(inside, edges_B1, weights=weight, **look)
            axis.set(title=heading, xlabel="inner product (no unit)", ylabel="share of pairs")
            axis.text(
                0.98, 0.95, note, transform=axis.transAxes, ha="right", va="top", fontsize=7.5
            )
        _legend(figure, axes)
    return path


def _some(vector_ND: np.ndarray) -> np.ndarray:
    if len(vector_ND) <= SAMPLE:
        return vector_ND
    return vector_ND[np.random.default_rng(0).permutation(len(vector_ND))[:SAMPLE]]


def _legend(figure, axes) -> None:
    entries = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    place = {
        "loc": "outside lower center",
        "ncols": min(4, len(entries)),
        "handlelength": 2.6,
        "markerscale": 1.5,
    }
    figure.legend(entries.values(), entries.keys(), **place)
