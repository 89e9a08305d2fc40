"""Feature matrices of items and users, from a table keyed by id.

Dimension key: N ids of the log, F features, R rows of the table.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from metacsr_jax.data.archive import Source, opened
from metacsr_jax.data.ids import encode_ids
from metacsr_jax.data.records import Check, Rows, gather
from metacsr_jax.data.tables import header
from metacsr_jax.data.text import text_rows
from metacsr_jax.errors import DataError


class Features(NamedTuple):
    """Features in the order of a log's ids."""

    matrix_NF: np.ndarray  # float32; zeros where the table has no row for an id
    names: tuple[str, ...]  # [F] columns of the table
    missing: int  # ids of the log without a row
    unused: int  # rows whose id is not in the log


def read_features(path: str | Path, ids: np.ndarray) -> Features:
    """Reads a table whose first column is the id and whose others are numbers.

    Args:
      path: csv, tsv or parquet with a header, packed or not.
      ids: [N] sorted ids of a log, int64 or strings.

    Returns:
      The matrix aligned to `ids`, and what did not match.

    Raises:
      DataError: if a value is not a finite number, an id comes twice, there is no feature column,
        or no row matches any id.
    """
    with opened(path, ()) as source:
        rows = _rows(source)
        frame = _numbers(rows)
    names = rows.labels[1:]
    code_R, unique = encode_ids(frame["id"], f"{source.place}: column {rows.labels[0]!r}")
    if unique.size < frame.height:
        twice = unique[np.argmax(np.bincount(code_R) > 1)]
        raise DataError(f"{source.place}: id {twice!r} has several rows; expected one")
    # Ids are compared as text, so that 7 in a table matches "7" in a log whose other ids are words.
    row_of = dict(zip(map(str, unique[code_R].tolist()), range(frame.height), strict=True))
    row_N = np.array([row_of.get(str(i), -1) for i in ids.tolist()])
    found_N = row_N >= 0
    if not found_N.any():
        raise DataError(
            f"{source.place}: none of {frame.height} ids, such as {unique[0]!r}, is among the "
            f"log's, such as {ids[0]!r}"
        )
    value_RF = frame.drop("id").to_numpy().astype(np.float32)
    matrix_NF = np.zeros((len(ids), len(names)), np.float32)
    matrix_NF[found_N] = value_RF[row_N[found_N]]
    missing = int((~found_N).sum())
    return Features(matrix_NF, names, missing, frame.height - int(found_N.sum()))


def _rows(source: Source) -> Rows:
    """The table's records, not yet read."""
    with source.file.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    if parquet:
        lazy = pl.scan_parquet(source.file, glob=False)
        labels = lazy.collect_schema().names()
        columns = [pl.col(label).alias(str(i)) for i, label in enumerate(labels)]
        lazy = lazy.select(columns).with_row_index("row")
        rows = Rows(lazy, source.place, tuple(labels), lambda row: f"{source.place}: row {row + 1}")
    else:
        separator = "\t" if len(header(source, "\t")) > 1 else ","
        labels = header(source, separator)
        rows = text_rows(source, labels, separator, header=True, quotes=True, skip=False)
    if len(labels) < 2:
        raise DataError(
            f"{source.place}: columns {labels}; expected an id, then at least one feature"
        )
    return rows


def _numbers(rows: Rows) -> pl.DataFrame:
    """Column `id`, then the features as float32 columns."""
    types = rows.lazy.collect_schema()
    columns = {"id": pl.col("0") if types["0"].is_integer() else pl.col("0").cast(pl.String)}
    checks = [*rows.checks, Check(pl.col("0").is_null(), "0", rows.labels[0], "an id")]
    for i, label in enumerate(rows.labels[1:], 1):
        raw = pl.col(str(i))
        if types[str(i)] == pl.String:
            raw = raw.str.strip_chars(" ")
        elif not (types[str(i)].is_numeric() or types[str(i)] == pl.Boolean):
            raise DataError(f"{rows.place}: column {label!r} is {types[str(i)]}; expected numbers")
        columns[f"f{i}"] = raw.cast(pl.Float32, strict=False)
        expected = "a finite number (encode categories as 0/1 columns)"
        checks.append(Check(~pl.col(f"f{i}").is_finite(), str(i), label, expected))
    return gather(rows, columns, checks, skip=False)[0]
