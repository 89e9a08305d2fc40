"""Evaluation of a work directory: rows, ranks, devices, batches, baselines."""

import csv
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny import ROOT, config, copy, trained

from metacsr_jax import workdir as workdirs
from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluate import evaluate, evaluate_baselines, rank_scenario, score_of
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.rows import KEYS, read_ranks, read_rows
from metacsr_jax.problem import scenario_batches
from metacsr_jax.trained import load_trained

SCENARIOS, CANDIDATES = ("cold", "warm"), ("sampled-20", "full")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A work directory with its evaluation as configured."""
    workdir = copy(trained(), tmp_path_factory.mktemp("evaluate") / "run")
    return workdir, evaluate(workdir)


def test_rows_have_the_keys_and_every_combination(evaluated):
    workdir, rows = evaluated
    chosen = workdirs.read_manifest(workdir)["chosen_adapt_steps"]
    assert all(tuple(row) == KEYS for row in rows)
    assert {row["model"] for row in rows} == {"metacsr"}
    assert {(row["dataset"], row["seed"]) for row in rows} == {("synthetic", 0)}
    found = {
        (row["scenario"], row["candidates"], row["adapt_steps"], row["metric"])
        for row in rows
        if row["subset"] == "all"
    }
    steps = sorted({0, 1, chosen})
    assert found == {
        (s, c, a, m) for s in SCENARIOS for c in CANDIDATES for a in steps for m in METRICS
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    cases = {row["scenario"]: row["cases"] for row in rows if row["subset"] == "all"}
    assert cases == {"cold": 30, "warm": 108}
    for scenario in SCENARIOS:
        for pair in (("seen", "unseen"), ("new", "repeat")):
            sizes = {row["subset"]: row["cases"] for row in rows if row["scenario"] == scenario}
            assert sum(sizes.get(subset, 0) for subset in pair) == cases[scenario]


def test_files_say_what_was_returned(evaluated):
    workdir, rows = evaluated
    assert sorted(map(str, read_rows(workdir))) == sorted(map(str, rows))
    with (workdir / "evaluation" / "rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) and tuple(lines[0]) == KEYS


def test_ranks_of_every_case_give_the_rows_back(evaluated):
    workdir, rows = evaluated
    for scenario in SCENARIOS:
        for candidates in CANDIDATES:
            for steps in (0, 1):
                ranks = read_ranks(
                    workdir / "evaluation" / f"ranks-{scenario}-{candidates}-{steps}.npz"
                )
                means = per_case(ranks.rank, ranks.others).mean(axis=0)
                values = [
                    row["value"]
                    for metric in METRICS
                    for row in rows
                    if (
                        row["scenario"],
                        row["candidates"],
                        row["adapt_steps"],
                        row["subset"],
                        row["metric"],
                    )
                    == (scenario, candidates, steps, "all", metric)
                ]
                np.testing.assert_allclose(means, values, rtol=1e-6)


def test_adaptation_moves_the_ranks(evaluated):
    """A test of equal files would otherwise pass with an adaptation that does nothing."""
    workdir, _ = evaluated
    ranks = [
        read_ranks(workdir / "evaluation" / f"ranks-warm-full-{steps}.npz").rank for steps in (0, 1)
    ]
    assert (ranks[0] != ranks[1]).any()


def test_the_chosen_number_of_steps_is_evaluated_too(tmp_path):
    workdir = copy(trained(), tmp_path / "run")
    workdirs.update_manifest(workdir, chosen_adapt_steps=3)
    rows = evaluate(workdir, scenarios=["cold"])
    assert {row["adapt_steps"] for row in rows} == {0, 1, 3}


def test_evaluating_again_replaces_its_rows_and_no_others(tmp_path, evaluated):
    workdir, rows = evaluated
    workdir = copy(workdir, tmp_path / "run")
    again = evaluate(workdir, scenarios=["cold"], adapt_steps=[0])
    assert {(row["scenario"], row["adapt_steps"]) for row in again} == {("cold", 0)}
    assert read_rows(workdir) == read_rows(evaluated[0])
    more = evaluate(workdir, scenarios=["cold"], adapt_steps=[2], checkpoint="last")
    assert len(read_rows(workdir)) == len(more) < len(rows), "those of another checkpoint make way"
    assert not list((workdir / "evaluation").glob("ranks-warm-*"))


def test_steps_are_evaluated_by_name(tmp_path):
    workdir = trained()
    best = workdirs.read_manifest(workdir)["best_step"]
    assert load_trained(workdir).step == load_trained(workdir, "best").step == best
    assert load_trained(workdir, "last").step == 12 == load_trained(workdir, "12").step
    with pytest.raises(WorkdirError, match="expected best, last or one of"):
        load_trained(workdir, "3")


@pytest.mark.parametrize("kind", ["tuned", "paper"])
def test_the_batch_size_does_not_change_ranks(kind):
    """Also not the negatives of the support, which eq. 10 needs and `tuned` does not."""
    served = load_trained(trained(kind))
    score = score_of(served)
    one, other = (rank_scenario(served.problem, score, "warm", 1, batch) for batch in (7, 108))
    for candidates in CANDIDATES:
        np.testing.assert_array_equal(one[candidates].rank_N, other[candidates].rank_N)


def test_the_order_of_users_does_not_change_scores():
    served = load_trained(trained("paper"))
    score = score_of(served)
    _, batch = scenario_batches(served.problem, "cold")
    order = np.random.default_rng(0).permutation(30)
    one = np.asarray(score(batch, 1))
    other = np.asarray(score(jax.tree.map(lambda array: array[order], batch), 1))
    np.testing.assert_allclose(one[order], other, atol=1e-6)


def test_adapting_by_group_has_its_own_rows_and_ranks(tmp_path):
    workdir = copy(trained("paper"), tmp_path / "run")
    rows = evaluate(
        workdir, scenarios=["cold"], adapt_steps=[1], batch=5
    )  # rounded up to whole groups of 4
    assert {row["model"] for row in rows} == {"metacsr", "metacsr-group"}
    names = {file.name for file in (workdir / "evaluation").glob("ranks-*.npz")}
    assert {"ranks-cold-full-1.npz", "ranks-cold-group-full-1.npz"} <= names
    served = load_trained(workdir)
    score = score_of(served, "group")
    one, other = (rank_scenario(served.problem, score, "cold", 1, batch) for batch in (8, 16))
    np.testing.assert_array_equal(one["full"].rank_N, other["full"].rank_N)


def test_baselines_are_ranked_on_the_same_cases(tmp_path, evaluated):
    workdir, own = evaluated
    workdir = copy(workdir, tmp_path / "run")
    rows = evaluate_baselines(workdir, ["popular", "markov", "random"])
    assert {row["model"] for row in rows} == {"popular", "markov", "random"}
    assert {row["adapt_steps"] for row in rows} == {0}
    cases = {(row["scenario"], row["cases"]) for row in rows if row["subset"] == "all"}
    assert cases == {(row["scenario"], row["cases"]) for row in own if row["subset"] == "all"}
    assert len(read_rows(workdir)) == len(rows) + len(own)
    wanted = {
        "model": "random",
        "scenario": "warm",
        "subset": "all",
        "candidates": "sampled-20",
        "metric": "auc",
    }
    (chance,) = (row["value"] for row in rows if wanted.items() <= row.items())
    assert chance == pytest.approx(0.5, abs=0.12)


# What a run on another number of devices leaves: every array of the state lies on both of two.
SPREAD = """
import sys, jax
sys.path.insert(0, "tests")
from pathlib import Path
from tiny import saved_state
from metacsr_jax.checkpoint import Checkpoints, Progress
workdir, step = Path(sys.argv[1]), int(sys.argv[2])
assert jax.device_count() == 2
mesh = jax.sharding.Mesh(jax.devices(), ("x",))
def place(leaf):
    split = leaf.ndim == 2 and leaf.shape[0] % 2 == 0
    spec = jax.sharding.PartitionSpec("x") if split else jax.sharding.PartitionSpec()
    return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))
state = jax.tree.map(place, saved_state(workdir, step))
assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
target = Checkpoints(workdir / "spread", 2)
target.save(state, Progress(best_step=step))
target.close()
"""


def test_a_checkpoint_of_two_devices_is_evaluated_on_one(tmp_path, evaluated, monkeypatch):
    workdir = copy(evaluated[0], tmp_path / "run")
    step = workdirs.read_manifest(workdir)["best_step"]
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    command = [sys.executable, "-c", SPREAD, str(workdir), str(step)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    (workdir / "checkpoints").rename(workdir / "before")
    (workdir / "spread").rename(workdir / "checkpoints")
    (workdir / "evaluation").rename(workdir / "evaluation-before")
    assert jax.device_count() == 1
    evaluate(workdir)
    assert read_rows(workdir) == read_rows(evaluated[0])
    for file in (workdir / "evaluation-before").glob("*.npz"):
        np.testing.assert_array_equal(
            read_ranks(file).rank, read_ranks(workdir / "evaluation" / file.name).rank
        )


def test_evaluation_reads_nothing_but_the_work_directory(tmp_path, monkeypatch, evaluated):
    """Moved elsewhere, with the log out of reach."""
    moved = copy(trained(), tmp_path / "elsewhere" / "run")
    monkeypatch.setattr("metacsr_jax.log.generate", None)
    monkeypatch.chdir(tmp_path)
    rows = evaluate("elsewhere/run", scenarios=["cold"], adapt_steps=[1])
    assert rows == [
        row for row in evaluated[1] if (row["scenario"], row["adapt_steps"]) == ("cold", 1)
    ]
    assert (moved / "evaluation" / "rows.json").exists()


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(WorkdirError, match="no such directory"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(WorkdirError, match=r"config\.json: missing"):
        evaluate(tmp_path)
    workdirs.open_workdir(tmp_path / "new", config())
    with pytest.raises(WorkdirError, match="train first"):
        evaluate(tmp_path / "new")
    assert not (tmp_path / "new" / "checkpoints").exists()
    damaged = copy(trained(), tmp_path / "damaged")
    content = workdirs.read_json(damaged / "config.json")
    content["model"]["dim"] = 16
    workdirs.write_json(damaged / "config.json", content)
    with pytest.raises(WorkdirError, match="does not fit"):
        evaluate(damaged)
    (damaged / "protocol" / "item_E.npy").unlink()
    with pytest.raises(WorkdirError, match="item_E"):
        evaluate(damaged)
