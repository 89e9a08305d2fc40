"""Any table with named columns: csv, tsv, parquet.

Columns are found by usual names, in any case and with or without `_`, `-` and a type after a colon
(`user_id:token`), or are named in the configuration. Others are ignored. Ids stay as written:
blanks around them are part of them.
"""

import csv
import difflib
from collections.abc import Sequence

import polars as pl

from metacsr_jax.config import DataConfig
from metacsr_jax.data.archive import Source
from metacsr_jax.data.interactions import Interactions, drop_duplicates
from metacsr_jax.data.records import Layout, Rows, events
from metacsr_jax.data.text import text_rows
from metacsr_jax.errors import DataError

NAMES = {
    "user": ("user", "userid", "uid", "reviewerid", "customerid", "visitorid", "userindex"),
    "item": (
        "item", "itemid", "iid", "movieid", "asin", "productid", "trackid", "songid", "bookid",
        "videoid", "newsid", "articleid", "businessid", "itemindex",
    ),
    "time": (
        "timestamp", "time", "unixreviewtime", "unixtime", "datetime", "date", "ts", "createdat",
    ),
    "rating": ("rating", "overall", "score", "stars"),
}  # fmt: skip
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_ABSENT = {"time": "order", "rating": "none"}
TIME_IF_THERE = (
    "time if there"  # as time_column: a column with a usual name, or the order of the rows
)


def read_csv(source: Source, config: DataConfig) -> Interactions:
    """Reads comma-separated text with a header; fields may be quoted."""
    return _read_text(source, config, "csv")


def read_tsv(source: Source, config: DataConfig) -> Interactions:
    """Reads tab-separated text with a header; fields may be quoted."""
    return _read_text(source, config, "tsv")


def read_parquet(source: Source, config: DataConfig) -> Interactions:
    """Reads the named columns of a parquet file."""
    try:
        lazy = pl.scan_parquet(source.file, glob=False)
        labels = lazy.collect_schema().names()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{source.place}: not a whole parquet file ({error})") from error
    layout = find_columns(labels, config, source.place)
    columns = [pl.col(label).alias(str(i)) for i, label in enumerate(labels) if i in layout[:4]]
    lazy = lazy.select(columns).with_row_index("row")
    rows = Rows(lazy, source.place, tuple(labels), lambda row: f"{source.place}: row {row + 1}")
    return _finish(rows, layout, source, config)


def header(source: Source, separator: str) -> list[str]:
    """The names in the first line of a text file."""
    with source.file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return next(csv.reader(stream, delimiter=separator), [])


def find_columns(labels: Sequence[str], config: DataConfig, place: str) -> Layout:
    """Finds the columns of a log among a table's names.

    Args:
      labels: the table's names.
      config: names to use instead of the usual ones; time_column "order" and rating_column "none"
        stand for no column.
      place: the file, for errors.

    Returns:
      Positions of user, item, time and rating, the last two or None.

    Raises:
      DataError: if a named column is missing, twice there, or none has a usual name.
    """
    found = {role: _find(role, labels, getattr(config, f"{role}_column"), place) for role in NAMES}
    if found["user"] == found["item"]:
        raise DataError(f"{place}: user and item are both {labels[found['user']]!r}")
    return Layout(**found)


def _find(role: str, labels: Sequence[str], named: str, place: str) -> int | None:
    """The position of one role's column."""
    if named and named == _ABSENT.get(role):
        return None
    optional = role == "rating" or named == TIME_IF_THERE
    if named and named != TIME_IF_THERE:
        if labels.count(named) == 1:
            return labels.index(named)
        near = difflib.get_close_matches(named, labels, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise DataError(
            f"{place}: {labels.count(named)} columns {named!r} ({role}_column) among "
            f"{', '.join(map(repr, labels))}; expected one{hint}"
        )
    plain = [plain_name(label) for label in labels]
    for name in NAMES[role]:
        if plain.count(name) > 1:
            raise DataError(
                f"{place}: {plain.count(name)} columns {name!r}; expected one, or its name in "
                f"data.{role}_column"
            )
        if name in plain:
            return plain.index(name)
    if optional:
        return None
    absent = ', or "order" where the rows are in order' if role == "time" else ""
    raise DataError(
        f"{place}: no {role} column among {', '.join(map(repr, labels))}; expected one named like "
        f"{', '.join(NAMES[role][:4])}, or its name in data.{role}_column{absent}"
    )


def plain_name(label: str) -> str:
    """A column's name without case, separators and type."""
    return (
        label.partition(":")[0].strip().lower().replace("_", "").replace("-", "").replace(" ", "")
    )


def _read_text(source: Source, config: DataConfig, form: str) -> Interactions:
    """Reads csv or tsv."""
    separator = _SEPARATORS[form]
    labels = header(source, separator)
    if len(labels) < 2:
        line = labels[0] if labels else ""
        other = max(",\t;|", key=line.count)
        hint = f"; {other!r} seems to separate them" if line.count(other) else ""
        raise DataError(
            f"{source.place}:1: found one column {line[:100]!r}; expected a header of names "
            f"separated by {separator!r}{hint}"
        )
    layout = find_columns(labels, config, f"{source.place}:1")
    rows = text_rows(
        source, labels, separator, header=True, quotes=True, skip=config.skip_malformed
    )
    return _finish(rows, layout, source, config)


def _finish(rows: Rows, layout: Layout, source: Source, config: DataConfig) -> Interactions:
    """Reads the columns and drops duplicates."""
    frame, counts = events(rows, layout, skip=config.skip_malformed)
    return drop_duplicates(
        Interactions.from_ids(
            frame["user"],
            frame["item"],
            frame["time"] if layout.time is not None else None,
            frame["rating"] if layout.rating is not None else None,
            name=config.name or source.name,
            counts=counts,
        )
    )
