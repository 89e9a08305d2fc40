"""Tables and tests over several runs: expected values from ranks written by hand.

Dimension key: N cases.
"""

import csv
import json

import numpy as np
import pytest

from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluation.ranking import Ranks
from metacsr_jax.evaluation.rows import RankFile, ranks_path
from metacsr_jax.evaluation.significance import holm
from metacsr_jax.report.comparison import Finished, difference_rows, scored, summary_rows
from metacsr_jax.report.paper import PRINTED, printed
from metacsr_jax.report.settle import (
    main_table,
    settle,
    significance_table,
    subset_lines,
    ways_table,
)

CASES, OTHERS = 40, 10


def write(path, rank_N, steps, scenario="cold", kind="sampled-10", **changes):
    """One rank file; the last ten targets are unseen in training."""
    content = {
        "rank": np.asarray(rank_N, np.float32),
        "others": np.full(CASES, OTHERS, np.int32),
        "user": np.arange(CASES),
        "target": np.arange(CASES) % 7,
        "seen": np.arange(CASES) < 30,
        "repeat": np.zeros(CASES, bool),
    } | changes
    file = ranks_path(path, scenario, kind, steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **RankFile(**content)._asdict())


def finished(path, model, seed, chosen="none", steps=None, dataset="movielens-1m"):
    return Finished(model, seed, path, dataset, steps or {"none": 0}, chosen, 60.0, 30.0)


@pytest.fixture
def runs(tmp_path):
    """metaCSR with two seeds, of which one chose to adapt; popular; bpr."""
    found = []
    for seed, chosen in ((0, "adapted"), (1, "none")):
        path = tmp_path / f"metacsr-{seed}"
        write(path, np.full(CASES, 1.0), 0)
        write(path, np.full(CASES, seed), 5)
        found.append(finished(path, "metacsr", seed, chosen, {"none": 0, "adapted": 5}))
    write(tmp_path / "popular", np.arange(CASES) % 4, 0)
    found.append(finished(tmp_path / "popular", "popular", 0))
    write(tmp_path / "bpr", np.full(CASES, 4.0), 0)
    found.append(finished(tmp_path / "bpr", "bpr", 0))
    return found


def test_ways_steps_and_seeds(runs):
    rows = summary_rows(runs, ["cold"], ["sampled-10"], resamples=50)
    maps = {
        (row["model"], row["way"]): row
        for row in rows
        if (row["metric"], row["subset"]) == ("map", "all")
    }
    values = {
        ("metacsr", "none"): 1 / 2,
        ("metacsr", "adapted"): (1 + 1 / 2) / 2,
        ("metacsr", "chosen"): (1 + 1 / 2) / 2,
        ("popular", "none"): (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4,
        ("popular", "chosen"): (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4,
        ("bpr", "none"): 1 / 5,
        ("bpr", "chosen"): 1 / 5,
    }
    assert {key: row["value"] for key, row in maps.items()} == pytest.approx(values)
    chosen = maps["metacsr", "chosen"]
    assert (chosen["steps"], chosen["seeds"], chosen["cases"]) == ("5,0", "0,1", CASES)
    assert chosen["deviation"] == pytest.approx(np.std([1, 1 / 2], ddof=1))
    assert maps["bpr", "chosen"]["deviation"] is None
    assert chosen["paper"] == 0.2987 and maps["popular", "chosen"]["paper"] is None
    assert maps["metacsr", "none"]["paper"] is None, "the paper's figure stands once"
    subsets = {row["subset"]: row["cases"] for row in rows if row["model"] == "bpr"}
    assert subsets == {"all": 40, "seen": 30, "unseen": 10}


def test_differences_are_paired_and_corrected(runs):
    rows = difference_rows(runs, ["cold"], ["sampled-10"], resamples=200)
    maps = {row["model"]: row for row in rows if row["metric"] == "map"}
    assert (maps["bpr"]["seeds"], maps["popular"]["seeds"]) == ("0", "0"), "those that both have"
    assert maps["bpr"]["difference"] == pytest.approx(1 - 1 / 5)
    assert (maps["bpr"]["low"], maps["bpr"]["high"]) == pytest.approx([1 - 1 / 5] * 2)
    assert maps["popular"]["difference"] == pytest.approx(1 - 25 / 48)
    for name in ("bootstrap_p", "wilcoxon_p"):
        raw = [row[name] for row in maps.values()]
        np.testing.assert_allclose([row[f"{name}_holm"] for row in maps.values()], holm(raw))
    assert not difference_rows(runs[2:], ["cold"], ["sampled-10"]), "nothing without metaCSR"


def test_runs_on_other_cases_are_refused(runs, tmp_path):
    for name, value in (
        ("user", np.arange(CASES) + 1),
        ("target", np.zeros(CASES, int)),
        ("others", np.full(CASES, OTHERS + 1, np.int32)),
    ):
        path = tmp_path / f"other-{name}"
        write(path, np.zeros(CASES), 0, **{name: value})
        other = finished(path, "ease", 0)
        with pytest.raises(WorkdirError, match=f"another `{name}`"):
            difference_rows([*runs, other], ["cold"], ["sampled-10"])
    two_seeds = [finished(path, "ease", 0), runs[2]._replace(model="ease", seed=1)]
    with pytest.raises(WorkdirError, match="another `others`"):
        scored(two_seeds, "none", "cold", "sampled-10")


def test_files_of_a_comparison(runs, tmp_path):
    for run in runs:
        for steps in run.steps.values():
            write(run.path, np.arange(CASES) % 5, steps, kind="full")
    files = settle(runs, tmp_path / "out", ["cold"], OTHERS, ["**Missing:**", "- csan: failed"])
    names = {file.name for file in files}
    assert {"comparison.json", "comparison.csv", "comparison.md", "tests.csv"} <= names
    assert {"figure-3-cold-sampled-10.png", "figure-3-cold-full.png"} <= names
    assert all(file.stat().st_size for file in files)
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(content["metrics"])
    text = (tmp_path / "out" / "comparison.md").read_text()
    for part in ("- csan: failed", "the paper's Table 3", "Wilcoxon", ".862, .299", "± .354"):
        assert part in text
    assert "Table 4" not in text


def test_tables_are_in_order(runs):
    rows = summary_rows(runs, ["cold"], ["sampled-10"], resamples=20)
    lines = main_table(rows).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["metacsr", "popular", "bpr"]
    assert [line.split("|")[1].strip() for line in ways_table(rows).splitlines()[2:]] == [
        "metacsr"
    ] * 2
    tests = difference_rows(runs, ["cold"], ["sampled-10"], resamples=20)
    lines = significance_table(tests).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["popular", "bpr"], "the closest first"


def test_parts_of_the_cases_are_shown_where_both_have_enough(runs):
    rows = summary_rows(runs, ["cold"], ["sampled-10"], resamples=20)
    assert subset_lines(rows) == "", "ten unseen targets are few"
    for run in runs:
        for steps in run.steps.values():
            write(run.path, np.arange(CASES) % 5, steps, seen=np.arange(CASES) < 20)
    lines = subset_lines(summary_rows(runs, ["cold"], ["sampled-10"], resamples=20)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["seen"] * 3 + ["unseen"] * 3


def test_the_papers_figures():
    assert printed("movielens-1m", "csan", "warm", "map") == 0.2596
    assert printed("movielens-1m", "sasrec", "cold", "map") is None
    assert printed("custom", "bpr", "cold", "map") is None
    assert printed("lastfm-1week", "bpr", "cold", "hit@10") is None
    for models in PRINTED.values():
        assert len(models) == 9
        assert all(0 < value < 1 for figures in models.values() for value in figures)


def test_ranks_tuple_is_what_the_fixture_writes(tmp_path):
    """The fixture's files are those of the harness."""
    from metacsr_jax.evaluation.rows import read_ranks

    write(tmp_path, np.arange(CASES) % 3, 0)
    file = read_ranks(ranks_path(tmp_path, "cold", "sampled-10", 0))
    assert Ranks(file.rank, file.others).rank_N.tolist() == (np.arange(CASES) % 3).tolist()
