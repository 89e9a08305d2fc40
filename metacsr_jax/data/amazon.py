"""Amazon reviews as J. McAuley publishes them: ratings only (2014, 2018) and json lines (5-core).

The ratings-only files have no header, and their first two columns changed places between the
releases. An ASIN is ten characters, either a B and nine capitals or digits or an ISBN; a reviewer
id starts with an A.
"""

from collections.abc import Sequence

import polars as pl

from metacsr_jax.config import DataConfig
from metacsr_jax.data.archive import Source
from metacsr_jax.data.interactions import Interactions, drop_duplicates
from metacsr_jax.data.records import Check, Layout, Rows, events
from metacsr_jax.data.text import line_rows, text_rows

ASIN = r"^(?:B[0-9A-Z]{9}|[0-9]{9}[0-9X])$"
REVIEWER = r"^A[0-9A-Z]{7,}$"

_STARS = (0.0, 5.0)
_KEYS = ("reviewerID", "asin", "overall", "unixReviewTime")


def read_2014(source: Source, config: DataConfig) -> Interactions:
    """Reads a ratings-only csv of 2014: user, item, rating, time, without a header."""
    return _read_ratings(source, config, ("user", "item", "rating", "timestamp"))


def read_2018(source: Source, config: DataConfig) -> Interactions:
    """Reads a ratings-only csv of 2018: item, user, rating, time, without a header."""
    return _read_ratings(source, config, ("item", "user", "rating", "timestamp"))


def read_json(source: Source, config: DataConfig) -> Interactions:
    """Reads json lines with reviewerID, asin, overall and unixReviewTime (the 5-core files)."""
    # A line that is no json object, or lacks a key, gives null, which the checks refuse.
    values = [
        pl.col("line").str.json_path_match(f"$.{key}").alias(str(i)) for i, key in enumerate(_KEYS)
    ]
    lines = line_rows(source, skip=config.skip_malformed)
    nothing = pl.all_horizontal(pl.col(str(i)).is_null() for i in range(len(_KEYS)))
    form = Check(nothing, "line", "", f"a json object with {', '.join(_KEYS)}")
    rows = lines._replace(
        lazy=lines.lazy.with_columns(values), labels=_KEYS, checks=(*lines.checks, form)
    )
    return _finish(rows, Layout(0, 1, time=3, rating=2, rating_range=_STARS), source, config)


def column_order(lines: Sequence[str]) -> str | None:
    """Tells the release of a ratings-only file from its first lines.

    Args:
      lines: some of which may be malformed.

    Returns:
      "amazon-ratings-2014" (user first), "amazon-ratings-2018" (item first), or None where the ids
      look like neither.
    """
    fields = [line.split(",")[:2] for line in lines if "," in line]
    first = pl.Series([f[0] for f in fields], dtype=pl.String)
    second = pl.Series([f[1] for f in fields], dtype=pl.String)
    user_first = _share(first, REVIEWER) + _share(second, ASIN)
    item_first = _share(first, ASIN) + _share(second, REVIEWER)
    if max(user_first, item_first) <= 1.0:
        return None
    return "amazon-ratings-2014" if user_first > item_first else "amazon-ratings-2018"


def _share(values: pl.Series, pattern: str) -> float:
    """The share of values that match."""
    return float(values.str.contains(pattern).mean() or 0.0)


def _read_ratings(source: Source, config: DataConfig, labels: tuple[str, ...]) -> Interactions:
    """Reads a ratings-only file whose columns are `labels`."""
    rows = text_rows(source, labels, ",", header=False, quotes=True, skip=config.skip_malformed)
    layout = Layout(
        labels.index("user"), labels.index("item"), time=3, rating=2, rating_range=_STARS
    )
    return _finish(rows, layout, source, config)


def _finish(rows: Rows, layout: Layout, source: Source, config: DataConfig) -> Interactions:
    """Reads the columns and drops duplicates."""
    frame, counts = events(rows, layout, skip=config.skip_malformed)
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
