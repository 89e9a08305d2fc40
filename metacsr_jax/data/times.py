"""Times in the forms that logs give them, as unix seconds.

A column is read in one form, the one that most of its first values have: integers, decimals, or
ISO 8601 text. Text without a zone is taken as UTC. Numbers are seconds, or, told by
their median, milliseconds (above 1e11, which as seconds is the year 5138), microseconds (1e14) or
nanoseconds (1e17). Parts of a second are cut off.
"""

from collections.abc import Callable

import polars as pl

EXPECTED = "unix seconds or milliseconds, or an ISO 8601 date-time"

_TEXT_FORMS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
_UNITS = ((1e17, 10**9), (1e14, 10**6), (1e11, 10**3))


def time_expr(column: str, sample: pl.Series) -> pl.Expr:
    """The expression that reads a column of times.

    Args:
      column: its name.
      sample: its first values, from which the form is told.

    Returns:
      An int64 expression: seconds, or numbers in the column's own unit for `to_seconds`; null
      where a value is not of the form.
    """
    raw = pl.col(column)
    if sample.dtype.is_integer():
        return raw.cast(pl.Int64, strict=False)
    if sample.dtype.is_float():
        return raw.floor().cast(pl.Int64, strict=False)
    if sample.dtype == pl.Datetime or sample.dtype == pl.Date:
        return raw.cast(pl.Datetime("us")).dt.epoch("s")
    if sample.dtype != pl.String:
        return pl.lit(None, pl.Int64)
    forms = [_integer, _decimal, *map(_text, _TEXT_FORMS), _any_text, _date]
    frame = sample.to_frame(column)
    fits = [frame.select(form(raw).is_not_null().sum()).item() for form in forms]
    return forms[fits.index(max(fits))](raw)


def to_seconds(time: pl.Series) -> pl.Series:
    """Turns milli-, micro- and nanoseconds into seconds, told by the median of every n-th value."""
    median = time.gather_every(max(1, time.len() // 10_000)).abs().median()
    for above, per_second in _UNITS:
        if median is not None and median > above:
            return time // per_second
    return time


def _integer(raw: pl.Expr) -> pl.Expr:
    return raw.cast(pl.Int64, strict=False)


def _decimal(raw: pl.Expr) -> pl.Expr:
    return (
        raw.str.strip_chars(" ").cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    )


def _text(form: str) -> Callable[[pl.Expr], pl.Expr]:
    return lambda raw: raw.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("s")


def _any_text(raw: pl.Expr) -> pl.Expr:
    """Slower: with or without T, fraction and zone, also mixed in one column."""
    text = raw.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    return pl.coalesce(
        _text("%Y-%m-%d %H:%M:%S%.f")(text),
        _text("%Y-%m-%d %H:%M:%S%.f%:z")(text),
        _text("%Y-%m-%d %H:%M:%S%.f%z")(text),
    )


def _date(raw: pl.Expr) -> pl.Expr:
    return raw.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.epoch("s")
