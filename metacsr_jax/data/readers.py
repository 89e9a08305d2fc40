"""From a path to a log: which form is it, and who reads it."""

import dataclasses
import difflib
import itertools
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from metacsr_jax.config import DataConfig
from metacsr_jax.data import amazon, lastfm, movielens, tables
from metacsr_jax.data.archive import Source, opened
from metacsr_jax.data.features import read_features
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import DataError

Reader = Callable[[Source, DataConfig], Interactions]

FORMATS: MappingProxyType[str, Reader] = MappingProxyType(
    {
        "movielens-1m": movielens.read_dat,
        "movielens-10m": movielens.read_dat,
        "movielens-100k": movielens.read_100k,
        "movielens-csv": movielens.read_csv,
        "amazon-ratings-2014": amazon.read_2014,
        "amazon-ratings-2018": amazon.read_2018,
        "amazon-json": amazon.read_json,
        "lastfm-1k": lastfm.read,
        "csv": tables.read_csv,
        "tsv": tables.read_tsv,
        "parquet": tables.read_parquet,
    }
)

_MEMBERS = movielens.MEMBERS + lastfm.MEMBERS
_SAMPLE_LINES, _LINE_LIMIT = 200, 1 << 16


def read(path: str | Path, config: DataConfig | None = None) -> Interactions:
    """Reads a log, whatever published form it has.

    Args:
      path: a file, a directory, or a zip, gz or tar.gz as downloaded.
      config: format ("auto": recognised from the first lines), columns, what to do with malformed
        lines, feature files. `config.path` is not read.

    Returns:
      The log in file order. Exact duplicate rows of rated logs are dropped and counted.

    Raises:
      DataError: naming file, line or column, the value found and what was expected.
    """
    config = DataConfig() if config is None else config
    if config.format != "auto" and config.format not in FORMATS:
        near = difflib.get_close_matches(config.format, FORMATS, n=3) or list(FORMATS)
        raise DataError(
            f"data.format is {config.format!r}; expected auto or one of {', '.join(near)}"
        )
    with opened(path, _MEMBERS) as source:
        form = recognise(source, config) if config.format == "auto" else config.format
        log = FORMATS[form](source, config)
    if config.rating_column == "none" and log.rating_E is not None:
        log = dataclasses.replace(log, rating_E=None)
    return _with_features(log, config)


def recognise(source: Source, config: DataConfig) -> str:
    """Tells a file's form from its first lines; not all of them need to be well formed.

    Args:
      source: the file.
      config: where columns are named, the file is taken for a table.

    Returns:
      A name in `FORMATS`.

    Raises:
      DataError: if the lines are of no known form.
    """
    with source.file.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return "parquet"
    lines = _first_lines(source)
    if not lines:
        raise DataError(f"{source.place}: only blank lines; expected a log")
    if not (config.user_column or config.item_column or config.time_column):
        form = _published(lines, source)
        if form:
            return form
    if source.file.suffix in (".tsv", ".inter"):
        return "tsv"
    if source.file.suffix == ".csv":
        return "csv"
    if len(lines[0].split("\t")) > 1 or len(lines[0].split(",")) > 1:
        return "tsv" if "\t" in lines[0] else "csv"
    raise DataError(
        f"{source.place}:1: found {lines[0][:100]!r}, which no known form begins with; expected "
        f"one of {', '.join(FORMATS)}, named in data.format if not recognised"
    )


def _published(lines: list[str], source: Source) -> str | None:
    """The published form that most lines have, or None for a table or something unknown."""
    if lines[0] == ",".join(movielens.CSV_HEADER):
        return "movielens-csv"
    if _is_header(lines[0]):
        return None
    counts = {form: sum(map(fits, lines)) for form, fits in _FORMS.items()}
    form = max(counts, key=counts.get)
    if not counts[form]:
        return None
    if form != "amazon-ratings":
        return form
    release = amazon.column_order(lines)
    if release is None and _is_four(lines[0]):
        raise DataError(
            f"{source.place}:1: found {lines[0][:100]!r}, four fields without a header whose ids "
            "do not tell user from item; expected '::' between fields (MovieLens), a header, or "
            "data.format=amazon-ratings-2014 (user first) or amazon-ratings-2018 (item first)"
        )
    return release


def _first_lines(source: Source) -> list[str]:
    """Some of the first lines that are not blank."""
    with source.file.open("rb") as stream:
        head = itertools.islice(iter(lambda: stream.readline(_LINE_LIMIT), b""), _SAMPLE_LINES)
        lines = [line.decode("utf-8-sig", "replace").rstrip("\r\n") for line in head]
    return [line for line in lines if line.strip()]


def _is_udata(line: str) -> bool:
    fields = line.split("\t")
    return len(fields) == 4 and sum(field.isdigit() for field in fields) >= 3


def _is_lastfm(line: str) -> bool:
    fields = line.split("\t")
    return len(fields) == 6 and fields[1][4:5] == "-"


def _is_four(line: str) -> bool:
    fields = line.split(",")
    return len(fields) == 4 and sum(field.replace(".", "", 1).isdigit() for field in fields) >= 1


# Looser than the readers, so that a malformed line is named by the reader of its form.
_FORMS: dict[str, Callable[[str], bool]] = {
    "amazon-json": lambda line: line.startswith("{"),
    "movielens-1m": lambda line: "::" in line,
    "movielens-100k": _is_udata,
    "lastfm-1k": _is_lastfm,
    "amazon-ratings": _is_four,
}


def _is_header(line: str) -> bool:
    """Whether at least two columns have usual names of different roles."""
    separator = "\t" if "\t" in line else ","
    names = {tables.plain_name(field.strip('"')) for field in line.split(separator)}
    return sum(not names.isdisjoint(usual) for usual in tables.NAMES.values()) >= 2


def _with_features(log: Interactions, config: DataConfig) -> Interactions:
    """Adds the feature matrices that the configuration names."""
    for side in ("item", "user"):
        path = getattr(config, f"{side}_features")
        if path:
            features = read_features(path, getattr(log, f"{side}_ids"))
            counts = dict(log.counts) | {f"{side}s_without_features": features.missing}
            log = dataclasses.replace(
                log, counts=counts, **{f"{side}_features": features.matrix_NF}
            )
    return log
