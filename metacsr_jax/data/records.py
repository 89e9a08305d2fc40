"""Rows of a file as checked columns, in a stream.

Text is scanned as lines and split by vectorised expressions; each check is one more boolean
expression. Only when a row fails is the file visited again, for the value to name. Tables with
quotes go through the csv parser, and through Python's, line by line, where that one gives up.
"""

import codecs
import csv
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from metacsr_jax.data import times
from metacsr_jax.data.archive import Source
from metacsr_jax.errors import DataError

_NO_BYTE = "\x1e"  # stands between no two fields of any log we know
_CHUNK = 1 << 24
_UNIT = "\x1f"  # between fields of a table re-written without quotes
_HINT = ". To count such rows and go on, set skip_malformed"


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


def text_rows(
    source: Source, labels: Sequence[str], separator: str, *, header: bool, quotes: bool, skip: bool
) -> Rows:
    """Rows of a delimited text file.

    Args:
      source: the file.
      labels: names of its columns.
      separator: between fields; several characters are allowed without quotes.
      header: whether the first line holds names.
      quotes: whether fields may be quoted as in RFC 4180.
      skip: whether lines that are not UTF-8 are left to the checks instead of refused at once.

    Returns:
      The rows, with a check of the number of fields.

    Raises:
      DataError: if a line is not UTF-8 and `skip` is False.
    """
    quoted, broken_line = _inspect(source, skip)
    if quotes and quoted:
        rows = _quoted_rows(source, labels, separator, header)
        if not broken_line and _readable(rows):
            return rows
        plain = _without_quotes(source, separator, len(labels))
        rows = _split_rows(plain, labels, _UNIT, header, bool(broken_line))
        return rows._replace(checks=(_fields_check(labels, separator),))
    return _split_rows(source, labels, separator, header, bool(broken_line))


def line_rows(source: Source, skip: bool) -> pl.LazyFrame:
    """The lines that are not blank, as "row" (line number - 1) and "line"."""
    _, broken_line = _inspect(source, skip)
    return _lines(source.file, bool(broken_line))


def line_locator(place: str) -> Callable[[int], str]:
    """Names the line of a "row" of `line_rows`."""
    return lambda row: f"{place}:{row + 1}"


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
            raise DataError(message + _HINT)
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


def _lines(file: Path, lossy: bool) -> pl.LazyFrame:
    """Scans a file as lines; those that are blank are left out but counted in "row"."""
    encoding = "utf8-lossy" if lossy else "utf8"
    scan = pl.scan_csv(
        file,
        has_header=False,
        schema={"line": pl.String},
        separator=_NO_BYTE,
        quote_char=None,
        encoding=encoding,
        row_index_name="row",
        truncate_ragged_lines=True,
        glob=False,
    )
    return scan.filter(pl.col("line").is_not_null())


def _split_rows(
    source: Source, labels: Sequence[str], separator: str, header: bool, lossy: bool
) -> Rows:
    """Rows of text without quotes."""
    names = [*map(str, range(len(labels))), "extra"]
    parts = pl.col("line").str.split_exact(separator, len(labels)).struct.rename_fields(names)
    lazy = _lines(source.file, lossy)
    if header:
        lazy = lazy.filter(pl.col("row") > 0)
    lazy = lazy.with_columns(parts.alias("parts")).unnest("parts")
    checks = (_fields_check(labels, separator),)
    if lossy:
        strange = pl.col("line").str.contains("\ufffd", literal=True)
        checks += (Check(strange, "line", "", "UTF-8 text"),)
    return Rows(lazy, source.place, tuple(labels), line_locator(source.place), checks)


def _fields_check(labels: Sequence[str], separator: str) -> Check:
    """The number of fields must be that of the labels."""
    bad = pl.col("extra").is_not_null() | pl.col(str(len(labels) - 1)).is_null()
    names = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    return Check(bad, "line", "", f"{len(labels)} fields separated by {separator!r} ({names})")


def _quoted_rows(source: Source, labels: Sequence[str], separator: str, header: bool) -> Rows:
    """Rows of a csv with quotes, in which a field may hold separators and line ends."""
    names = [*map(str, range(len(labels)))]
    lazy = pl.scan_csv(
        source.file,
        has_header=False,
        skip_rows=int(header),
        schema=dict.fromkeys(names, pl.String),
        separator=separator,
        glob=False,
    ).with_row_index("row")

    def locate(row: int) -> str:
        with source.file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=separator)
            for _ in itertools.islice(reader, row + int(header)):
                pass
            return f"{source.place}:{reader.line_num + 1}"

    return Rows(lazy, source.place, tuple(labels), locate)


def _readable(rows: Rows) -> bool:
    """Whether the csv parser takes the whole file, and there is no blank line to tell from ",,"."""
    blank = pl.all_horizontal(pl.col(str(i)).is_null() for i in range(len(rows.labels)))
    try:
        return not rows.lazy.select(blank.any()).collect(engine="streaming").item()
    except pl.exceptions.PolarsError:
        return False


def _without_quotes(source: Source, separator: str, width: int) -> Source:
    """Re-writes a csv line by line without quotes; lines that are no csv stay as they are."""
    plain = source.scratch / "plain.txt"
    with source.file.open("rb") as stream, plain.open("w", encoding="utf-8", newline="\n") as sink:
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            try:
                line.decode("utf-8")
                fields = next(csv.reader([text], delimiter=separator, strict=True), [])
            except (csv.Error, UnicodeDecodeError):
                fields = []
            good = len(fields) == width and _UNIT not in text
            sink.write((_UNIT.join(fields) if good else text.replace(_UNIT, " ")) + "\n")
    return source._replace(file=plain)


def _inspect(source: Source, skip: bool) -> tuple[bool, int]:
    """Whether there are quotes, and the first line that is not UTF-8 (0: none; error unless skip)."""
    quoted, line = False, 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    with source.file.open("rb") as stream:
        try:
            while chunk := stream.read(_CHUNK):
                quoted = quoted or b'"' in chunk
                if not chunk.isascii() or decoder.getstate()[0]:
                    decoder.decode(chunk)
                line += chunk.count(b"\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            if skip:
                return True, line
            raise DataError(
                f"{source.place}:{line}: found the byte {error.object[error.start]:#04x}; expected "
                f"UTF-8 text{_HINT}"
            ) from error
    return quoted, 0
