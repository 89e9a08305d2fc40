"""Rows of a file as checked columns, in a stream.

Each check is one vectorised expression over all rows. Only when a row fails is the file visited
again, for the value to name.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl

from metacsr_jax.data import times
from metacsr_jax.errors import DataError

HINT = ". To count such rows and go on, set skip_malformed"


class Check(NamedTuple):
    """A way for a row to be malformed."""

    bad: pl.Expr  # boolean, over raw and read columns; null counts as bad
    column: str  # raw: what to show
    label: str  # what the file calls it; empty: the whole line
    expected: str


class Rows(NamedTuple):
    """The records of one file, not yet read."""

    lazy: pl.LazyFrame  # "row" and the raw columns "0", "1", ... (and "line" where it is text)
    place: str
    labels: tuple[str, ...]  # what the file calls the columns
    locate: Callable[[int], str]  # "row" -> file and line, for errors
    checks: tuple[Check, ...] = ()  # of the form of a row


class Layout(NamedTuple):
    """Which raw column is what."""

    user: int
    item: int
    time: int | None
    rating: int | None
    rating_range: tuple[float, float] = (float("-inf"), float("inf"))


def events(rows: Rows, layout: Layout, *, skip: bool) -> tuple[pl.DataFrame, dict[str, int]]:
    """Reads and checks the columns of a log.

    Args:
      rows: the file's records.
      layout: which column is what.
      skip: count malformed rows instead of stopping at the first.

    Returns:
      A frame with `user` and `item` (string or int64) and, where the layout has them, `time` (int64
      seconds) and `rating` (float32), in file order; and the counts of rows.

    Raises:
      DataError: naming place, value and expectation of the first malformed row.
    """
    types = rows.lazy.collect_schema()
    columns, checks = {}, list(rows.checks)
    for role, index in (("user", layout.user), ("item", layout.item)):
        columns[role] = _id_expr(str(index), types[str(index)], rows, index)
        checks.append(_id_check(role, types[str(index)], str(index), rows.labels[index]))
    if layout.time is not None:
        columns["time"], check = time_column(rows, layout.time)
        checks.append(check)
    if layout.rating is not None:
        columns["rating"], check = _rating_column(rows, layout)
        checks.append(check)
    frame, counts = gather(rows, columns, checks, skip=skip)
    if layout.time is not None:
        frame = frame.with_columns(times.to_seconds(frame["time"]))
    return frame, counts


def time_column(rows: Rows, index: int) -> tuple[pl.Expr, Check]:
    """The expression of a column of times, and the check of what is read as "time"."""
    sample = _sample(rows, str(index))
    expr = times.time_expr(str(index), sample)
    check = Check(pl.col("time").is_null(), str(index), rows.labels[index], times.EXPECTED)
    return expr, check


def gather(
    rows: Rows, columns: dict[str, pl.Expr], checks: Sequence[Check], *, skip: bool
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Evaluates `columns` over all rows in one streamed pass.

    Args:
      rows: the file's records.
      columns: name -> expression over the raw columns.
      checks: the first that holds for a row makes it malformed.
      skip: drop and count malformed rows.

    Returns:
      The frame of the good rows, and counts of 'rows' and 'malformed'.

    Raises:
      DataError: at the first malformed row unless `skip`; if no row is left.
    """
    problem = pl.lit(0, pl.UInt8)
    for number, check in reversed(list(enumerate(checks, 1))):
        number_expr = pl.lit(number, pl.UInt8)
        problem = pl.when(check.bad.fill_null(True)).then(number_expr).otherwise(problem)
    # In two steps, so that the checks see what was read and nothing is parsed twice.
    read = rows.lazy.with_columns(**columns)
    query = read.select("row", problem.alias("problem"), *columns)
    try:
        frame = query.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise _unreadable(rows, error) from error
    if frame.is_empty():
        raise DataError(f"{rows.place}: no events; expected at least one row")
    total = frame.height
    malformed = frame["problem"] != 0
    if malformed.any():
        first = frame.row(int(malformed.arg_max()), named=True)
        message = _describe(rows, checks[first["problem"] - 1], first["row"])
        frame = frame.filter(~malformed)
        if not skip:
            raise DataError(message + HINT)
        if frame.is_empty():
            raise DataError(f"{rows.place}: none of {total} rows is well formed; first, {message}")
    counts = {"rows": total, "malformed": total - frame.height}
    return frame.drop("row", "problem"), counts


def _describe(rows: Rows, check: Check, row: int) -> str:
    """Names place, value and expectation of a malformed row."""
    frame = rows.lazy.filter(pl.col("row") == row).select(check.column).collect()
    value = frame.item()
    shown = repr(value if value is not None else "")
    shown = shown if len(shown) <= 100 else shown[:100] + "..."
    what = f"column {check.label!r}: found" if check.label else "found"
    return f"{rows.locate(row)}: {what} {shown}; expected {check.expected}"


def _id_expr(column: str, dtype: pl.DataType, rows: Rows, index: int) -> pl.Expr:
    """Ids as int64 or strings."""
    if dtype.is_integer():
        return pl.col(column).cast(pl.Int64, strict=False)
    if dtype == pl.String or dtype == pl.Categorical or dtype == pl.Enum:
        return pl.col(column).cast(pl.String)
    raise DataError(
        f"{rows.place}: column {rows.labels[index]!r} is {dtype}; expected string or integer ids"
    )


def _id_check(role: str, dtype: pl.DataType, column: str, label: str) -> Check:
    """Ids must not be null or blank."""
    read = pl.col(role)
    bad = read.is_null() if dtype.is_integer() else read.str.strip_chars() == ""
    return Check(bad, column, label, f"an {role} id" if role == "item" else f"a {role} id")


def _rating_column(rows: Rows, layout: Layout) -> tuple[pl.Expr, Check]:
    """Ratings as finite float32 within the layout's range."""
    column, label = str(layout.rating), rows.labels[layout.rating]
    raw = pl.col(column)
    sample = _sample(rows, column)
    if sample.dtype == pl.String and sample.str.contains(" ", literal=True).any():
        raw = raw.str.strip_chars(" ")
    read, expected = pl.col("rating"), "a finite number"
    low, high = layout.rating_range
    if low > float("-inf"):
        expected = f"a rating of {low:g} to {high:g}"
    bad = ~(read.is_finite() & read.is_between(low, high))
    return raw.cast(pl.Float32, strict=False), Check(bad, column, label, expected)


def _sample(rows: Rows, column: str) -> pl.Series:
    """The first values of a raw column."""
    try:
        return rows.lazy.select(column).head(1000).collect().to_series()
    except pl.exceptions.PolarsError as error:
        raise _unreadable(rows, error) from error


def _unreadable(rows: Rows, error: Exception) -> DataError:
    """What to say where polars itself gave up."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{rows.place}: cannot be read ({reason})")
