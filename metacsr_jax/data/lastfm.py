"""Last.fm-1K (O. Celma, Music Recommendation and Discovery, 2010): the plays of 992 users.

Six columns separated by tabs, newest first: userid, timestamp (ISO 8601), MusicBrainz artist id,
artist name, MusicBrainz track id, track name. Either id is often missing.

An item is "artist name — track name". The names are always there; the track id is missing for
about one play in ten, so that items keyed by it would be two things: a track with an id, and
the same track without.
"""

import numpy as np
import polars as pl

from metacsr_jax.config import DataConfig
from metacsr_jax.data.archive import Source
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.data.records import Check, gather, time_column
from metacsr_jax.data.text import text_rows
from metacsr_jax.errors import DataError

MEMBERS = ("userid-timestamp-artid-artname-traid-traname.tsv",)
LABELS = ("userid", "timestamp", "artist id", "artist name", "track id", "track name")
JOIN = " — "  # between artist and track in an item's id

_DAY = 86400
_STRAY_SHARE, _STRAY_DAYS = 1e-4, 30


def read(source: Source, config: DataConfig) -> Interactions:
    """Reads the latest `config.window_days` of the log.

    The window ends with the latest event that is not `stray`, and includes its end only.

    Args:
      source: the file.
      config: `window_days` (0: all), `skip_malformed` and `name` are used.

    Returns:
      The plays of the window, repeats included, in file order. `counts` has 'rows', 'malformed',
      'stray' and 'outside_window'.

    Raises:
      DataError: at the first malformed line, wherever in the log it is.
    """
    rows = text_rows(source, LABELS, "\t", header=False, quotes=False, skip=config.skip_malformed)
    time, time_check = time_column(rows, 1)
    checks = [*rows.checks, _filled(0, "a user id"), time_check]
    checks += [_filled(3, "an artist name"), _filled(5, "a track name")]
    # Two passes: only the times of the whole log are ever held, and the strings of the window.
    frame, counts = gather(rows, {"time": time}, checks, skip=config.skip_malformed)
    time_E = frame["time"].to_numpy()
    start, end = window(time_E, config.window_days)
    counts["stray"] = int((time_E > end).sum())
    counts["outside_window"] = int((time_E <= start).sum())
    inside = rows._replace(lazy=rows.lazy.filter((time > start) & (time <= end)))
    columns = {"user": pl.col("0"), "item": pl.col("3") + JOIN + pl.col("5"), "time": time}
    frame, _ = gather(inside, columns, checks, skip=config.skip_malformed)
    return Interactions.from_ids(
        frame["user"],
        frame["item"],
        frame["time"],
        name=config.name or source.name,
        counts=counts,
    )


def window(time_E: np.ndarray, days: float) -> tuple[int, int]:
    """The window (start, end] of the latest `days` of a log.

    Plays carry the listener's clock, and a few clocks run years ahead: times more than 30 days
    after the first 99.99 % of all events are stray, and the latest of the others is the end. A log
    of fewer than 10,000 events has no stray ones.

    Args:
      time_E: int64 unix seconds, in any order.
      days: length of the window; 0: everything up to the end.

    Returns:
      Start (excluded) and end (included), unix seconds.

    Raises:
      DataError: if `days` is negative or not finite.
    """
    if not (np.isfinite(days) and days >= 0):
        raise DataError(f"window_days is {days}; expected a number of days, or 0 for the whole log")
    last = time_E.size - 1 - int(time_E.size * _STRAY_SHARE)
    limit = np.partition(time_E, last)[last] + _STRAY_DAYS * _DAY
    end = int(time_E[time_E <= limit].max())
    start = end - int(days * _DAY) if days else int(time_E.min()) - 1
    return start, end


def _filled(index: int, expected: str) -> Check:
    """A column must not be blank."""
    bad = pl.col(str(index)).str.strip_chars() == ""
    return Check(bad, str(index), LABELS[index], expected)
