"""Histories of new users from a file, for recommendation."""

from pathlib import Path
from typing import Any

import numpy as np

from metacsr_jax.config import DataConfig
from metacsr_jax.data.readers import read
from metacsr_jax.data.tables import TIME_IF_THERE


def read_histories(path: str | Path) -> tuple[list[Any], list[list[Any]]]:
    """Reads events of several users from a table.

    Args:
        path: csv, tsv or parquet with user and item columns, and a timestamp if the rows are not in order.

    Returns:
        User ids, sorted, and each one's item ids in the order of time (of rows where times are equal or absent).

    Raises:
        DataError: the file is malformed; names the line or column.
    """
    log = read(path, DataConfig(time_column=TIME_IF_THERE, rating_column="none"))
    order_E = np.lexsort((log.time_E, log.user_E))  # stable: equal times stay in the order of rows
    item_E = log.item_ids[log.item_E[order_E]]
    end_U = np.cumsum(np.bincount(log.user_E, minlength=log.user_ids.size))
    histories = [part.tolist() for part in np.split(item_E, end_U[:-1])]
    return log.user_ids.tolist(), histories
