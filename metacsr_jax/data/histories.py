"""Histories of new users from a file, for recommendation."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from metacsr_jax.config import DataConfig
from metacsr_jax.data.readers import read
from metacsr_jax.data.records import HINT
from metacsr_jax.data.tables import TIME_IF_THERE
from metacsr_jax.errors import DataError


def read_histories(
    path: str | Path, user_column: str = "", item_column: str = ""
) -> tuple[list[Any], list[list[Any]]]:
    """Reads events of several users from a table.

    Args:
        path: csv, tsv or parquet with user and item columns, and a timestamp if the rows are not in order.
        user_column: its name; empty: recognised.
        item_column: its name; empty: recognised.

    Returns:
        User ids, sorted, and each one's item ids in the order of time (of rows where times are equal or absent).

    Raises:
        DataError: the file is malformed; names the line or column.
    """
    config = DataConfig(
        time_column=TIME_IF_THERE,
        rating_column="none",
        user_column=user_column,
        item_column=item_column,
    )
    try:
        log = read(path, config)
    except DataError as error:
        # What helps with a log does not help here: nothing may be skipped, and the columns have flags of their own.
        text = str(error).replace(HINT, "").replace("expected a log", "expected histories")
        raise DataError(re.sub(r"\bdata\.(user|item)_column", r"\1_column", text)) from error
    order_E = np.lexsort((log.time_E, log.user_E))  # stable: equal times stay in the order of rows
    item_E = log.item_ids[log.item_E[order_E]]
    end_U = np.cumsum(np.bincount(log.user_E, minlength=log.user_ids.size))
    histories = [part.tolist() for part in np.split(item_E, end_U[:-1])]
    return log.user_ids.tolist(), histories
