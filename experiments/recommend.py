r"""Recommends next items to users that a trained model has never seen.

    python -m experiments.recommend --workdir=runs/ml-1m --history="260,1196,1210" --k=10
    python -m experiments.recommend --workdir=runs/ml-1m --histories=new_users.csv --k=10 --output=next.csv

A histories file is csv, tsv or parquet with the columns user and item, in the order of events; the output has user, rank, item, score.
"""

import os
import sys

import polars as pl
from absl import flags

from experiments import launch
from metacsr_jax.data.histories import read_histories
from metacsr_jax.errors import ConfigError
from metacsr_jax.recommend import load

SHOWN = 5  # users named in a message

_WORKDIR = flags.DEFINE_string("workdir", None, "Written by experiments.train.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a saved step.")
_HISTORY = flags.DEFINE_string(
    "history", None, 'One history: "id,id,id", oldest first; empty: nothing is known.'
)
_HISTORIES = flags.DEFINE_string(
    "histories", None, "A file of histories: csv, tsv or parquet with user and item."
)
_USER_COLUMN = flags.DEFINE_string("user_column", "", "In --histories; default: recognised.")
_ITEM_COLUMN = flags.DEFINE_string("item_column", "", "In --histories; default: recognised.")
_K = flags.DEFINE_integer("k", 10, "Items per history.")
_ADAPT_STEPS = flags.DEFINE_integer(
    "adapt_steps", None, "Inner steps; default: the number chosen on validation users."
)
_EXCLUDE_SEEN = flags.DEFINE_bool("exclude_seen", True, "Leave a history's own items out.")
_CANDIDATES = flags.DEFINE_string("candidates", None, 'Rank these items only: "id,id,id".')
_OUTPUT = flags.DEFINE_string("output", None, "Write csv here instead of printing it.")


def main(_: list[str]) -> None:
    if (_HISTORY.value is None) == (_HISTORIES.value is None):
        raise ConfigError("expected one of --history and --histories")
    if _HISTORY.value is not None:
        users, histories = ["history"], [_ids(_HISTORY.value)]
    else:
        users, histories = read_histories(_HISTORIES.value, _USER_COLUMN.value, _ITEM_COLUMN.value)
    recommender = load(_WORKDIR.value, _CHECKPOINT.value)
    _say_fallbacks(recommender, users, histories)
    steps = _ADAPT_STEPS.value
    items, scores = recommender.recommend(
        histories,
        k=_K.value,
        adapt_steps=recommender.chosen_adapt_steps if steps is None else steps,
        exclude_seen=_EXCLUDE_SEEN.value,
        candidates=None if _CANDIDATES.value is None else _ids(_CANDIDATES.value),
    )
    table = pl.DataFrame(
        {
            "user": [user for user, ranked in zip(users, items, strict=True) for _ in ranked],
            "rank": [rank for ranked in items for rank in range(1, len(ranked) + 1)],
            "item": [item for ranked in items for item in ranked.tolist()],
            "score": [round(float(score), 6) for ranked in scores for score in ranked],
        }
    )
    if _OUTPUT.value is None:
        _print(table.write_csv())
        return
    try:
        table.write_csv(_OUTPUT.value)
    except OSError as error:
        raise ConfigError(
            f"--output={_OUTPUT.value}: {error}; expected a file that can be written"
        ) from error


def _say_fallbacks(recommender, users, histories) -> None:
    """Names the users of whom nothing is known: they get the popularity order, whose scores are counts."""
    unknown = [len(recommender.unknown(history)) == len(history) for history in histories]
    named = [str(user) for user, nothing in zip(users, unknown, strict=True) if nothing]
    if _HISTORY.value is not None and len(histories[0]) == 1 and named and " " in _HISTORY.value:
        raise ConfigError(
            f"--history={_HISTORY.value!r}: no such item; ids are separated by commas"
        )
    if named:
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        print(
            f"no known item: {', '.join(named[:SHOWN])}{more}; popularity order, "
            "scored by log(1 + count)",
            file=sys.stderr,
        )


def _print(text: str) -> None:
    """Prints; a reader that has seen enough (`| head`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python would flush, and complain, at exit


def _ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    launch.run(main)
