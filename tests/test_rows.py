"""Rows of an evaluation: what they say, and that the files keep what they should."""

import csv
import json
from typing import NamedTuple

import numpy as np
import pytest

from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.ranking import Ranks
from metacsr_jax.evaluation.rows import (
    KEYS,
    merge_rows,
    metric_rows,
    paired_difference,
    ranks_path,
    read_ranks,
    read_rows,
    write_ranks,
    write_rows,
)
from metacsr_jax.files import write_whole

ISSUE_KEYS = "model dataset seed scenario subset candidates adapt_steps metric value low high cases"


class Cases(NamedTuple):
    user_N: np.ndarray
    target_N: np.ndarray
    seen_N: np.ndarray
    repeat_N: np.ndarray


CASES = Cases(
    user_N=np.array([0, 2, 3, 5]),
    target_N=np.array([1, 1, 0, 2]),
    seen_N=np.array([True, True, True, False]),
    repeat_N=np.array([False, False, False, False]),
)
RANK_N = np.array([0, 1.5, 50, 100], np.float32)
RANKS = {
    "sampled-100": Ranks(RANK_N, np.full(4, 100, np.int32)),
    "full": Ranks(5 * RANK_N, np.array([900, 899, 500, 901], np.int32)),
}
RUN = {"model": "metacsr", "dataset": "toy", "seed": 0, "scenario": "cold", "adapt_steps": 1}


def rows_of(ranks=RANKS, **changes):
    return metric_rows(ranks, CASES, resamples=50, **(RUN | changes))


def pick(rows, **wanted):
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row


def test_keys_are_those_of_the_issue():
    assert " ".join(KEYS) == ISSUE_KEYS
    assert all(tuple(row) == KEYS for row in rows_of())


def test_values_are_means_over_each_subset():
    rows = rows_of()
    auc = 1 - RANK_N / 100
    assert pick(rows, candidates="sampled-100", subset="all", metric="auc")[
        "value"
    ] == pytest.approx(auc.mean())
    assert pick(rows, candidates="sampled-100", subset="seen", metric="auc")[
        "value"
    ] == pytest.approx(auc[:3].mean())
    unseen = pick(rows, candidates="full", subset="unseen", metric="map")
    assert unseen["cases"] == 1
    for end in ("value", "low", "high"):
        assert unseen[end] == pytest.approx(1 / (1 + 500))
    new, whole = (pick(rows, candidates="full", subset=s, metric="hit@3") for s in ("new", "all"))
    assert (new["value"], new["cases"]) == (whole["value"], 4)


def test_empty_subsets_give_no_row():
    rows = rows_of()
    assert {row["subset"] for row in rows} == {"all", "seen", "unseen", "new"}
    assert len(rows) == 4 * len(RANKS) * len(METRICS)


def test_intervals_hold_the_value_and_do_not_depend_on_the_other_candidates():
    rows = rows_of()
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    alone = rows_of({"full": RANKS["full"]})
    key = {"candidates": "full", "subset": "all", "metric": "auc"}
    assert pick(alone, **key)["low"] == pytest.approx(pick(rows, **key)["low"])


def test_rows_survive_the_files(tmp_path):
    written = write_rows(tmp_path, rows_of(model='métà, "x"'))
    text = (tmp_path / "evaluation/rows.json").read_text(encoding="utf-8")
    assert json.loads(text) == written == read_rows(tmp_path)
    with open(tmp_path / "evaluation/rows.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(written)
    assert [{key: str(row[key]) for key in KEYS} for row in written] == table


def test_evaluating_again_replaces_its_rows_and_keeps_the_others(tmp_path):
    write_rows(tmp_path, rows_of())
    others = [
        *rows_of(seed=1),
        *rows_of(adapt_steps=0),
        *rows_of(scenario="warm"),
        *rows_of(model="popular"),
    ]
    write_rows(tmp_path, others)
    worse = {"full": Ranks(np.full(4, 400, np.float32), RANKS["full"].others_N)}
    rows = write_rows(tmp_path, rows_of(worse))
    assert len(rows) == len(rows_of()) + len(others)
    for other in others:
        assert other in rows
    mine = {key: value for key, value in RUN.items()} | {"metric": "map", "subset": "all"}
    assert pick(rows, **mine, candidates="full")["value"] == pytest.approx(1 / 401)
    kept = {"candidates": "sampled-100", "metric": "map", "subset": "all"}
    assert pick(rows, **mine | kept) == pick(rows_of(), **kept)


def test_a_subset_that_has_become_empty_disappears():
    now = [row for row in rows_of() if row["subset"] == "all"]
    assert {row["subset"] for row in merge_rows(rows_of(), now)} == {"all"}


def test_order_does_not_depend_on_what_was_evaluated_first():
    one, other = rows_of(), rows_of(adapt_steps=0)
    assert merge_rows(one, other) == merge_rows(other, one)


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "JSON list"), ("{}", "dict"), ('[{"model": 1}]', "row 0")],
)
def test_foreign_rows_are_refused_and_left_alone(tmp_path, text, named):
    path = tmp_path / "evaluation" / "rows.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(WorkdirError, match=rf"rows\.json.*{named}"):
        write_rows(tmp_path, rows_of())
    assert path.read_text() == text


def test_missing_rows_are_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"rows\.json: missing"):
        read_rows(tmp_path)


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def save(workdir, ranks=RANKS, cases=CASES):
    user_ids = np.array(["ann", "bob", "cät", "d,e", "eve", "fay"])
    item_ids = np.array([10, 20, 30])
    names = {"scenario": "cold", "adapt_steps": 1, "user_ids": user_ids, "item_ids": item_ids}
    return write_ranks(workdir, ranks, cases, **names)


def test_ranks_survive_the_file(tmp_path):
    paths = save(tmp_path)
    assert [path.name for path in paths] == [
        "ranks-cold-sampled-100-1.npz",
        "ranks-cold-full-1.npz",
    ]
    assert paths[1] == ranks_path(tmp_path, "cold", "full", 1)
    found = read_ranks(paths[1])
    np.testing.assert_array_equal(found.rank, 5 * RANK_N)
    assert found.others.tolist() == [900, 899, 500, 901]
    assert found.user.tolist() == ["ann", "cät", "d,e", "fay"]
    assert found.target.tolist() == [20, 20, 10, 30]
    assert found.seen.tolist() == [True, True, True, False]
    assert not found.repeat.any()
    first = paths[0].read_bytes()
    assert save(tmp_path)[0].read_bytes() == first


def test_paired_difference(tmp_path):
    one = read_ranks(save(tmp_path)[0])
    better = one._replace(rank=one.rank / 2)
    value, low, high = paired_difference(better, one)
    gain = per_case(RANK_N / 2, one.others) - per_case(RANK_N, one.others)
    np.testing.assert_allclose(value, gain.mean(axis=0))
    assert (low <= value).all() and (value <= high).all()
    other = one._replace(target=one.target[::-1])
    with pytest.raises(WorkdirError, match="other users or targets"):
        paired_difference(one, other)
    other = one._replace(others=one.others + 1)
    with pytest.raises(WorkdirError, match="the same kind of candidates"):
        paired_difference(one, other)


def test_broken_rank_files_are_named(tmp_path):
    with pytest.raises(WorkdirError, match="missing"):
        read_ranks(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(WorkdirError, match=r"text\.npz"):
        read_ranks(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", rank=RANK_N)
    with pytest.raises(WorkdirError, match="others"):
        read_ranks(tmp_path / "part.npz")
