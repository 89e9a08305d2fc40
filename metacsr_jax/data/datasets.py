"""Data sets by name: where their publishers keep them, and the paper's table 2."""

from collections.abc import Iterable
from typing import NamedTuple

from metacsr_jax.data.interactions import Interactions, statistics

_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"


class DataSet(NamedTuple):
    """Where a data set is, and what the paper says of it."""

    url: str
    md5_url: str = ""  # the publisher's own checksum file
    content_md5: str = ""  # of the log inside, where the publisher gives only that
    paper: tuple[int, int, int, float] | None = None  # table 2: users, items, events, density
    title: str = ""  # in table 2


def _movielens(release: str, **fields) -> DataSet:
    """A release of MovieLens, with the .md5 file that GroupLens puts beside it."""
    url = f"{_GROUPLENS}{release}.zip"
    return DataSet(url, f"{url}.md5", **fields)


DATASETS: dict[str, DataSet] = {
    "movielens-1m": _movielens("ml-1m", paper=(6040, 3952, 575281, 0.0241), title="MovieLens-1M"),
    "movielens-100k": _movielens("ml-100k"),
    "movielens-10m": _movielens("ml-10m"),
    "movielens-20m": _movielens("ml-20m"),
    "movielens-25m": _movielens("ml-25m"),
    "movielens-32m": _movielens("ml-32m"),
    # GroupLens replaces this one from time to time, so that no checksum lasts.
    "movielens-latest-small": DataSet(f"{_GROUPLENS}ml-latest-small.zip"),
    "lastfm-1week": DataSet(
        "http://mtg.upf.edu/static/datasets/last.fm/lastfm-dataset-1K.tar.gz",
        content_md5="64747b21563e3d2aa95751e0ddc46b68",  # ocelma.net, lastfm-1K.html
        paper=(699, 45519, 59725, 0.0019),
        title="Last.fm-1week",
    ),
    "amazon-video": DataSet(
        "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
        "ratings_Amazon_Instant_Video.csv",
        paper=(368837, 19653, 482591, 0.00007),
        title="Amazon-Video",
    ),
}


def comparison(log: Interactions, min_rating: float, datasets: Iterable[str] = DATASETS) -> str:
    """Our counts of a log, and the paper's below them.

    Args:
      log: what was read.
      min_rating: lowest rating that counts, where there are ratings.
      datasets: names whose rows of table 2 to show, where they have one.

    Returns:
      A table as text, one row per line: users, items, interactions, density.
    """
    ours = [(f"{log.name}, all events", statistics(log))]
    if log.rating_E is not None:
        ours.append((f"{log.name}, rating >= {min_rating:g}", statistics(log, min_rating)))
    if log.declared_items is not None:
        users, _, events, _ = ours[-1][1]
        items = len(log.declared_items)
        row = (users, items, events, events / max(users * items, 1))
        ours.append((f"{log.name}, declared items", row))
    paper = [(f"{DATASETS[d].title}, paper", DATASETS[d].paper) for d in datasets]
    rows = [(label, *numbers) for label, numbers in ours + paper if numbers]
    lines = [f"{'':40}{'users':>10}{'items':>10}{'interactions':>14}{'density':>10}"]
    lines += [f"{a:40}{u:>10,}{i:>10,}{e:>14,}{d:>10.3%}" for a, u, i, e, d in rows]
    return "\n".join(lines)
