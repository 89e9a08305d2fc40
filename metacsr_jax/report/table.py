"""Plain text and markdown tables from evaluation rows."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from metacsr_jax.errors import DataError

Row = dict[str, Any]
Style = Literal["text", "markdown"]

TITLES = {"auc": "AUC", "map": "MAP"}
_COLUMNS = ("dataset", "scenario", "subset", "candidates", "seed", "model", "adapt_steps")
_HEADERS = {"adapt_steps": "steps"}
_ALWAYS = ("scenario", "candidates", "model", "adapt_steps")


def title(metric: str) -> str:
    """A metric's name in print: AUC, MAP, Hit@10, NDCG@10."""
    name, at, cutoff = metric.partition("@")
    return TITLES.get(metric, (name.upper() if name == "ndcg" else name.capitalize()) + at + cutoff)


def metric_table(
    rows: Iterable[Row],
    metrics: Sequence[str] = ("auc", "map", "hit@10", "ndcg@10"),
    subsets: Sequence[str] = ("all",),
    intervals: bool = True,
    style: Style = "text",
) -> str:
    """One line per evaluation, one column per metric, as in the paper's Tables 3 and 4.

    Columns for data set, subset and seed appear where they differ. Lines follow the order of the
    rows: models as they come, steps ascending.

    Args:
      rows: evaluation rows.
      metrics: which, in this order; one that a line lacks is left blank.
      subsets: which subsets of the cases.
      intervals: append the 95 % interval to every value.
      style: "text" for a terminal, "markdown" for a document.

    Raises:
      DataError: no row has one of the metrics and subsets.
    """
    rows = [row for row in rows if row["metric"] in metrics and row["subset"] in subsets]
    if not rows:
        raise DataError(
            f"table: no row with metric in {list(metrics)} and subset in {list(subsets)}; "
            "expected one at least"
        )
    names = {key: list(dict.fromkeys(row[key] for row in rows)) for key in _COLUMNS}
    names |= {key: sorted(names[key]) for key in ("seed", "adapt_steps")}
    names["subset"] = list(subsets)

    def order(line: tuple) -> list[int]:
        return [names[key].index(value) for key, value in zip(_COLUMNS, line, strict=True)]

    lines: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in _COLUMNS), {})[row["metric"]] = row
    shown = [
        place
        for place, key in enumerate(_COLUMNS)
        if key in _ALWAYS or len({line[place] for line in lines}) > 1
    ]
    header = [_HEADERS.get(_COLUMNS[place], _COLUMNS[place]) for place in shown]
    body = []
    for line in sorted(lines, key=order):
        found = lines[line]
        cells = [_cell(found.get(metric), intervals) for metric in metrics]
        cases = str(next(iter(found.values()))["cases"])
        body.append([*(str(line[place]) for place in shown), *cells, cases])
    return layout([*header, *(title(metric) for metric in metrics), "cases"], body, style)


def layout(header: Sequence[str], body: Sequence[Sequence[str]], style: Style = "text") -> str:
    """Aligned columns; those whose cells all start like numbers to the right, the rest to the left.

    Raises:
      DataError: a line has another number of cells than the header.
    """
    for number, line in enumerate(body):
        if len(line) != len(header):
            raise DataError(f"table: line {number} has {len(line)} cells; expected {len(header)}")
    if style == "markdown":
        body = [[cell.replace("|", "\\|") for cell in line] for line in body]
    columns = list(zip(header, *body, strict=True))
    right = [
        all(not cell or cell[0] in "-.0123456789" for cell in column[1:]) for column in columns
    ]
    least = 3 if style == "markdown" else 1
    widths = [max(least, *map(len, column)) for column in columns]

    def join(line: Sequence[str]) -> list[str]:
        return [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]

    if style == "markdown":
        rule = [
            "-" * (width - 1) + (":" if to_right else "-")
            for width, to_right in zip(widths, right, strict=True)
        ]
        return "\n".join(
            f"| {' | '.join(line)} |" for line in (join(header), rule, *map(join, body))
        )
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in (join(header), rule, *map(join, body)))


def subset_table(rows: Iterable[Row], style: Style = "text") -> str:
    """Seen and unseen, new and repeated targets apart, for scenarios that have both sorts; empty where none has."""
    rows = list(rows)
    whole = {row["scenario"]: row["cases"] for row in rows if row["subset"] == "all"}
    parts = [
        row for row in rows if row["subset"] != "all" and row["cases"] < whole[row["scenario"]]
    ]
    if not parts:
        return ""
    subsets = [
        name
        for name in ("seen", "unseen", "new", "repeat")
        if any(row["subset"] == name for row in parts)
    ]
    return metric_table(parts, subsets=subsets, style=style)


def difference_table(
    rows: Iterable[Row], metrics: Sequence[str] = ("auc", "map"), style: Style = "text"
) -> str:
    """Paired differences with their 95 % intervals, one line per comparison; rows as `evaluation.differences` has them."""
    keys = ("scenario", "candidates", "first", "second", "cases")
    lines: dict[tuple, dict[str, str]] = {}
    for row in rows:
        place = tuple(str(row[key]) for key in keys)
        cell = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        lines.setdefault(place, {})[row["metric"]] = cell
    body = [
        [*place, *(cells.get(metric, "") for metric in metrics)] for place, cells in lines.items()
    ]
    return layout([*keys, *(f"{title(metric)}: first - second" for metric in metrics)], body, style)


def _cell(row: Row | None, intervals: bool) -> str:
    """A value and its interval without leading zeros, as the paper prints them."""
    if row is None:
        return ""
    if not intervals:
        return number(row["value"])
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def number(value: float) -> str:
    """Three decimals without the leading zero."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
