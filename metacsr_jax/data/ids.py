"""Original ids and the codes that stand for them."""

from typing import Any

import numpy as np
import polars as pl

from metacsr_jax.errors import DataError
from metacsr_jax.sorting import unique

LONGEST_ID = 1000  # characters; a longer "id" is a lost line end or quote
DENSE_SPAN = 1_000_000  # integers this close together are looked up, however few events there are
_CANONICAL = r"^(?:0|-?[1-9][0-9]{0,17})$"  # "007", "+1" and "-0" stay strings


def encode_ids(values: Any, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Turns original ids into codes that do not depend on their order.

    Args:
      values: [E] integers or strings (sequence, NumPy array or polars Series).
      place: what to call them in errors.

    Returns:
      int32 codes [E] and the sorted unique ids: int64 where all are integers in canonical form
      ("7", not "007"), else strings.

    Raises:
      DataError: if an id is null, blank, over `LONGEST_ID` characters long, or neither a string nor
        an integer.
    """
    if not isinstance(values, pl.Series):
        values = _series(values, place)
    if values.len() == 0:
        raise DataError(f"{place}: none found; expected at least one event")
    if values.null_count():
        row = int(values.is_null().arg_max())
        raise DataError(f"{place}: row {row + 1} is empty; expected an id")
    if values.dtype.is_integer():
        return _encode_integers(values, place)
    if values.dtype != pl.String:
        raise DataError(f"{place} are {values.dtype}; expected strings or integers")
    unique = values.unique()
    _check_strings(unique, place)
    # An Enum maps each string to its place in the list of categories, in one pass.
    code_E = values.cast(pl.Enum(unique)).to_physical().to_numpy()
    whole = unique.str.contains(_CANONICAL).all()
    ids = unique.cast(pl.Int64).to_numpy() if whole else np.array(unique.to_list(), dtype=np.str_)
    order = np.argsort(ids)
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return rank[code_E], ids[order]


def _series(values: Any, place: str) -> pl.Series:
    """A sequence or array as a polars column."""
    array = values if isinstance(values, np.ndarray) else None
    if array is None or array.dtype.kind in "OU":
        values = list(values) if array is None else array.tolist()
        if all(isinstance(value, str) for value in values):
            return pl.Series(values, dtype=pl.String)
        array = np.asarray(values)
    if array.dtype.kind in "OU":
        odd = next(value for value in values if not isinstance(value, str))
        raise DataError(f"{place}: found {odd!r} among strings; expected one kind of id")
    return pl.Series(array)


def _encode_integers(values: pl.Series, place: str) -> tuple[np.ndarray, np.ndarray]:
    """`encode_ids` for an integer column."""
    try:
        value_E = values.cast(pl.Int64).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{place}: {values.max()}; expected integers below 2**63") from error
    low, high = int(value_E.min()), int(value_E.max())
    if high - low < max(4 * value_E.size, DENSE_SPAN):  # a look-up table instead of sorting
        seen = np.zeros(high - low + 1, bool)
        seen[value_E - low] = True
        rank = np.cumsum(seen, dtype=np.int32) - 1
        return rank[value_E - low].astype(np.int32), np.flatnonzero(seen) + low
    ids = unique(value_E)
    return np.searchsorted(ids, value_E).astype(np.int32), ids


def _check_strings(unique: pl.Series, place: str) -> None:
    """Refuses blank, endless and NUL-bearing ids."""
    if (unique.str.strip_chars() == "").any():
        raise DataError(f"{place}: a blank id; expected every id to have characters")
    length = unique.str.len_chars()
    if length.max() > LONGEST_ID:
        start = unique[int(length.arg_max())][:30]
        raise DataError(
            f"{place}: {start!r}... has {length.max()} characters; expected at most {LONGEST_ID}"
        )
    if unique.str.contains("\0", literal=True).any():
        raise DataError(f"{place}: a NUL character in an id; expected text")
