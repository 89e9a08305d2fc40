"""MovieLens as GroupLens publishes it: 100K, 1M, 10M, and the csv form of latest, 20M, 25M, 32M.

F. M. Harper and J. A. Konstan. The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015.
"""

import dataclasses

import numpy as np

from metacsr_jax.config import DataConfig
from metacsr_jax.data.archive import Source
from metacsr_jax.data.interactions import Interactions, drop_duplicates
from metacsr_jax.data.records import Layout, events
from metacsr_jax.data.text import text_rows

MEMBERS = ("ratings.dat", "u.data", "ratings.csv")
CSV_HEADER = ("userId", "movieId", "rating", "timestamp")

_STARS = (0.5, 5.0)
_USERS_1M, _ITEMS_1M = 6040, 3952  # its README: ids range between 1 and these


def read_dat(source: Source, config: DataConfig) -> Interactions:
    """Reads `ratings.dat` of MovieLens-1M or -10M: user::item::rating::time.

    Args:
      source: the file.
      config: `skip_malformed` and `name` are used.

    Returns:
      The log. Where all ids lie in the ranges of MovieLens-1M, `declared_items` is 1..3952.

    Raises:
      DataError: at the first malformed line.
    """
    log = _read(source, config, ("user", "item", "rating", "time"), "::", header=False)
    ids = (log.user_ids, _USERS_1M), (log.item_ids, _ITEMS_1M)
    if all(i.dtype == np.int64 and i[0] >= 1 and i[-1] <= top for i, top in ids):
        return dataclasses.replace(log, declared_items=np.arange(1, _ITEMS_1M + 1))
    return log


def read_100k(source: Source, config: DataConfig) -> Interactions:
    """Reads `u.data` of MovieLens-100K: user, item, rating, time, separated by tabs."""
    return _read(source, config, ("user", "item", "rating", "time"), "\t", header=False)


def read_csv(source: Source, config: DataConfig) -> Interactions:
    """Reads `ratings.csv` of latest, 20M, 25M and 32M: userId,movieId,rating,timestamp."""
    return _read(source, config, CSV_HEADER, ",", header=True)


def _read(
    source: Source, config: DataConfig, labels: tuple[str, ...], separator: str, *, header: bool
) -> Interactions:
    """Reads four columns in MovieLens's order."""
    skip = config.skip_malformed
    rows = text_rows(source, labels, separator, header=header, quotes=header, skip=skip)
    frame, counts = events(rows, Layout(0, 1, time=3, rating=2, rating_range=_STARS), skip=skip)
    return drop_duplicates(
        Interactions.from_ids(
            frame["user"],
            frame["item"],
            frame["time"],
            frame["rating"],
            name=config.name or source.name,
            counts=counts,
        )
    )
