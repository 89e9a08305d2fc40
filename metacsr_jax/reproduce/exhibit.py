"""A table or figure of the page, as data: what the page shows and the csv files hold comes from the same cells."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metacsr_jax.reproduce.results import Point

Cell = str | int | float | Point | None


class Table(NamedTuple):
    """Cells with a heading each.

    Attributes:
        name: of its csv file.
        header: of the columns.
        body: lines of cells; a `Point` is a value with its 95 % interval.
        caption: what it shows.
    """

    name: str
    header: Sequence[str]
    body: Sequence[Sequence[Cell]]
    caption: str = ""

    def csv(self) -> str:
        """The table with unrounded numbers; a point takes three columns."""
        columns = list(zip(*self.body, strict=True)) if self.body else [() for _ in self.header]
        wide = [any(isinstance(cell, Point) for cell in column) for column in columns]
        header = []
        for name, is_wide in zip(self.header, wide, strict=True):
            header += [name, f"{name}, low", f"{name}, high"] if is_wide else [name]
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(header)
        for line in self.body:
            cells = []
            for cell, is_wide in zip(line, wide, strict=True):
                if is_wide:
                    cells += list(cell) if isinstance(cell, Point) else [cell, None, None]
                else:
                    cells.append(cell)
            lines.writerow(cells)
        return text.getvalue()


class Picture(NamedTuple):
    """A picture as PNG; an SVG lies beside it.

    Attributes:
        path: of the PNG.
        alt: what is to be seen, for those who cannot.
    """

    path: Path
    alt: str


class Exhibit(NamedTuple):
    """One table or figure.

    Attributes:
        key: of `plan.EXHIBITS`.
        tables: with numbers.
        pictures: drawn.
        text: what was measured and how, a paragraph each.
    """

    key: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    text: Sequence[str] = ()


def shown(cell: Cell) -> str:
    """A cell as the page prints it: three decimals, intervals in brackets."""
    if cell is None:
        return ""
    if isinstance(cell, Point):
        return f"{_number(cell.value)} [{_number(cell.low)}, {_number(cell.high)}]"
    if isinstance(cell, float):
        return _number(cell)
    return f"{cell:,}" if isinstance(cell, int) else cell


def _number(value: float) -> str:
    """Three decimals, or three digits where that would show nothing."""
    if value and abs(value) < 5e-4:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
