"""How figures look: one colour-blind safe style, one way to open, label and save them.

matplotlib, the `plots` extra, is imported when the first figure is opened.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito (2008), with grey for yellow and black, which vanish on white and under intervals.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 3)))
MARKERS = "osD^vPX"
GREY = "#6b6b6b"
_STYLE = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "metacsr",  # equal input, equal file
    "svg.fonttype": "none",  # text stays text: smaller, and it can be found
}

Series = tuple[str, int]  # a model and its number of adaptation steps


@contextlib.contextmanager
def open_figure(
    path: str | os.PathLike,
    rows: int = 1,
    columns: int = 1,
    *,
    width: float,
    height: float,
    sharey: bool = False,
    also: Sequence[str] = (),
) -> Iterator[tuple[Any, np.ndarray]]:
    """A figure and its axes [rows, columns], saved on the way out; leaves no global state behind.

    Args:
      path: of the file; its suffix picks the format.
      rows, columns: panels.
      width, height: of one panel, in inches.
      sharey: one vertical axis per line of panels.
      also: further suffixes under which the same figure is saved.

    Raises:
      ImportError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'figures need matplotlib, which is not installed: pip install "metacsr_jax[plots]"'
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        share = "row" if sharey else False
        yield figure, figure.subplots(rows, columns, squeeze=False, sharey=share)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        for suffix in dict.fromkeys((Path(path).suffix, *also)):
            figure.savefig(Path(path).with_suffix(suffix))


def looks_of(series: Sequence[Series]) -> dict[Series, dict[str, Any]]:
    """A colour per model and a dash pattern per number of steps.

    Past the last colour, the dashes tell models apart too.
    """
    models = unique(model for model, _ in series)
    used = dict.fromkeys(COLOURS, 0)
    looks = {}
    for model, steps in series:
        colour = COLOURS[models.index(model) % len(COLOURS)]
        looks[model, steps] = {"color": colour, "linestyle": DASHES[used[colour] % len(DASHES)]}
        used[colour] += 1
    return looks


def label_of(name: Series, series: Sequence[Series]) -> str:
    """The model, with its steps where it has several."""
    model, steps = name
    several = sum(of == model for of, _ in series) > 1
    return f"{model}, {steps_text(steps)}" if several else model


def steps_text(count: int) -> str:
    """How a number of adaptation steps reads."""
    return {0: "not adapted", 1: "1 step"}.get(count, f"{count} steps")


def candidates_text(candidates: str) -> str:
    """How a kind of candidates reads."""
    kind, _, count = candidates.partition("-")
    return (
        f"ranked among {count} negatives" if kind == "sampled" else "ranked in the full catalogue"
    )


def legend_below(figure: Any, axes: np.ndarray, note: str) -> None:
    """One legend for all panels, under them."""
    entries = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=min(4, len(entries)),
        title=note,
        title_fontproperties={"size": 8},
        handlelength=3,
    )


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, as they come."""
    return list(dict.fromkeys(values))
