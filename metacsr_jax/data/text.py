"""Text files as records: lines, split at a separator, or csv with quotes.

Lines are scanned in a stream and split by one vectorised expression. A table with quotes goes
through polars' csv parser if every line is a record by itself. Otherwise (line ends inside of
fields, stray quotes, which that parser takes in silence) Python's re-writes it record by record.
"""

import codecs
import collections
import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from metacsr_jax.data.archive import Source
from metacsr_jax.data.records import HINT, Check, Rows
from metacsr_jax.errors import DataError

_CHUNK = 1 << 24  # bytes
_NO_BYTE = "\x1e"  # stands between no two fields of any log we know
_UNIT = "\x1f"  # between fields of a table re-written without quotes
_GROUP = "\x1d"  # there, a line end inside of a field
_LONGEST_RECORD = 200  # lines; an open quote further up is a stray one


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
        if not broken_line and _is_plain_csv(source.file, separator, len(labels)):
            return _quoted_rows(source, labels, separator, header)
        plain = _without_quotes(source, separator, len(labels))
        rows = _split_rows(plain, labels, _UNIT, header, lossy=False)
        fields = [
            pl.col(str(i)).str.replace_all(_GROUP, "\n", literal=True) for i in range(len(labels))
        ]
        lazy = rows.lazy.with_columns(fields)
        return rows._replace(lazy=lazy, checks=(_fields_check(labels, separator),))
    return _split_rows(source, labels, separator, header, bool(broken_line))


def line_rows(source: Source, *, skip: bool) -> Rows:
    """The lines that are not blank, whole, as column "line"."""
    _, broken_line = _inspect(source, skip)
    return Rows(
        _lines(source.file, bool(broken_line)),
        source.place,
        (),
        _locator(source.place),
        _text_checks(bool(broken_line)),
    )


def _lines(file: Path, lossy: bool, blank: bool = False) -> pl.LazyFrame:
    """Scans a file as lines; blank ones are left out unless asked for, but counted in "row"."""
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
    return scan if blank else scan.filter(pl.col("line").is_not_null())


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
    checks = (_fields_check(labels, separator), *_text_checks(lossy))
    return Rows(lazy, source.place, tuple(labels), _locator(source.place), checks)


def _locator(place: str) -> Callable[[int], str]:
    """Names the line of a row of `_lines`."""
    return lambda row: f"{place}:{row + 1}"


def _text_checks(lossy: bool) -> tuple[Check, ...]:
    """Where a file is not all UTF-8: which lines."""
    if not lossy:
        return ()
    strange = pl.col("line").str.contains("\ufffd", literal=True)
    return (Check(strange, "line", "", "UTF-8 text"),)


def _fields_check(labels: Sequence[str], separator: str) -> Check:
    """The number of fields must be that of the labels."""
    bad = pl.col("extra").is_not_null() | pl.col(str(len(labels) - 1)).is_null()
    names = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    return Check(bad, "line", "", f"{len(labels)} fields separated by {separator!r} ({names})")


def _quoted_rows(source: Source, labels: Sequence[str], separator: str, header: bool) -> Rows:
    """Rows of a csv with quotes whose every line is a record."""
    lazy = pl.scan_csv(
        source.file,
        has_header=False,
        skip_rows=int(header),
        schema={str(i): pl.String for i in range(len(labels))},
        separator=separator,
        row_index_name="row",
        row_index_offset=int(header),
        glob=False,
    )
    return Rows(lazy, source.place, tuple(labels), _locator(source.place))


def _is_plain_csv(file: Path, separator: str, width: int) -> bool:
    """Whether every line is a record of `width` fields by RFC 4180."""
    mark = re.escape(separator)
    field = f'(?:"(?:[^"]|"")*"|[^"{mark}]*)'
    record = f"^{field}(?:{mark}{field}){{{width - 1}}}$"
    lines = _lines(file, lossy=False, blank=True)
    fine = pl.col("line").str.contains(record).fill_null(False).all()
    return lines.select(fine).collect(engine="streaming").item()


def _without_quotes(source: Source, separator: str, width: int) -> Source:
    """Re-writes a csv without quotes, each record at its first line's number.

    What is no record of `width` fields stays as it is, for the checks to find.
    """
    plain = source.scratch / "plain.txt"
    with source.file.open("rb") as stream, plain.open("w", encoding="utf-8", newline="\n") as sink:
        waiting: collections.deque[bytes] = collections.deque()
        while line := waiting.popleft() if waiting else stream.readline():
            record = [line]
            fields = _parse(record, separator)
            while fields is None and len(record) < _LONGEST_RECORD:
                if not waiting and not (more := stream.readline()):
                    break
                record.append(waiting.popleft() if waiting else more)
                if b'"' in record[-1]:
                    fields = _parse(record, separator)
            good = fields is not None and len(fields) == width
            if good:
                text = _UNIT.join(fields).replace("\r\n", "\n").replace("\n", _GROUP)
                sink.write(text + "\n" * len(record))
                continue
            waiting.extendleft(reversed(record[1:]))
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            sink.write(text.replace(_UNIT, " ") + "\n")
    return source._replace(file=plain)


def _parse(record: Sequence[bytes], separator: str) -> list[str] | None:
    """The fields of a record, empty where it is none, or None where a quote is still open."""
    try:
        text = b"".join(record).decode("utf-8").rstrip("\r\n")
        return next(csv.reader([text], delimiter=separator, strict=True), [])
    except (csv.Error, UnicodeDecodeError) as error:
        return None if "unexpected end of data" in str(error) else []


def _inspect(source: Source, skip: bool) -> tuple[bool, int]:
    """Whether there are quotes, and the first line that is not UTF-8 (0: none)."""
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
                f"UTF-8 text{HINT}"
            ) from error
    return quoted, 0
