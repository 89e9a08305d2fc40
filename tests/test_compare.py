"""A comparison from end to end in small: many models, two seeds, interrupted, resumed, one that fails."""

import importlib
import os
import signal

import pytest
from rivals import CHUNK, LOG
from tiny import launch_many

from metacsr_jax import compare
from metacsr_jax.compare import finished, make_runs, model_names, run_all, wanted_steps
from metacsr_jax.errors import ConfigError, NonFiniteError, WorkdirError
from metacsr_jax.evaluation.rows import ranks_path
from metacsr_jax.registry import MODELS
from metacsr_jax.report.comparison import summary_rows
from metacsr_jax.workdir import read_manifest, update_manifest

SETS = [f"{name}={value}" for name, value in (LOG | CHUNK).items()]
FAST = {"bpr": {"train.steps": 2, "bpr.batch": 512, "evaluation.adapt_steps": (0, 1)}}


def small(workdir, models, seeds=(0,), **kwargs):
    return make_runs("synthetic", models, seeds, workdir, SETS, FAST, **kwargs)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Three models, two seeds; what was said."""
    workdir, said = tmp_path_factory.mktemp("compare"), []
    runs = small(workdir, ["popular", "bpr", "markov"], (0, 1))
    return runs, run_all(runs, progress=False, say=said.append), said


def test_every_run_has_a_directory_and_a_line(done):
    runs, outcomes, said = done
    assert [outcome.status for outcome in outcomes] == ["finished"] * 6
    assert [run.path.relative_to(runs[0].path.parents[1]).as_posix() for run in runs[:4]] == [
        "popular/seed-0",
        "bpr/seed-0",
        "markov/seed-0",
        "popular/seed-1",
    ], "one seed of everything comes first"
    for place, run in enumerate(runs, 1):
        title = f"[{place}/6] {run.model}, seed {run.seed}: "
        assert any(line.startswith(f"{title}training") for line in said)
        assert any(line.startswith(f"{title}done, validation MAP .") is False for line in said)
        assert any(line.startswith(f"{title}done, validation MAP 0.") for line in said)
    for run in finished(outcomes):
        assert run.steps == ({"none": 0, "adapted": 1} if run.model == "bpr" else {"none": 0})
        for scenario in ("cold", "warm"):
            for kind in ("sampled-30", "full"):
                for steps in run.steps.values():
                    assert ranks_path(run.path, scenario, kind, steps).exists()
        assert run.train_seconds > 0 and run.evaluate_seconds > 0


def test_what_is_done_is_not_done_again(done, monkeypatch):
    runs, _, _ = done

    def never(*args, **kwargs):
        raise AssertionError("done already")

    monkeypatch.setattr(compare, "fit", never)
    monkeypatch.setattr(compare, "evaluate", never)
    said = []
    assert all(
        outcome.status == "finished" for outcome in run_all(runs, progress=False, say=said.append)
    )
    assert len(said) == len(runs), "one line each"


def test_only_missing_ranks_are_made_and_those_of_another_checkpoint_are_not_trusted(
    done, monkeypatch
):
    runs, _, _ = done
    run = runs[1]
    assert run.model == "bpr"
    asked = []
    evaluate = compare.evaluate

    def recording(path, **kwargs):
        asked.append((kwargs["scenarios"], kwargs["adapt_steps"]))
        return evaluate(path, **kwargs)

    monkeypatch.setattr(compare, "evaluate", recording)
    ranks_path(run.path, "warm", "full", 1).unlink()
    run_all([run], progress=False, say=lambda line: None)
    assert asked == [(("warm",), [1])]
    asked.clear()
    best = read_manifest(run.path)["best_step"]
    update_manifest(run.path, evaluated_step=best + 1)
    evaluate(run.path, scenarios=("cold",), adapt_steps=(0, 1))  # by hand, the best one
    assert not ranks_path(run.path, "warm", "full", 1).exists(), "the other checkpoint's"
    run_all([run], progress=False, say=lambda line: None)
    assert asked == [(("warm",), [0, 1])]
    assert read_manifest(run.path)["evaluated_step"] == best
    asked.clear()
    (run.path / "evaluation" / "rows.json").unlink()  # killed between ranks and rows
    run_all([run], progress=False, say=lambda line: None)
    assert asked == [(("cold",), [0, 1]), (("warm",), [0, 1])]


def test_steps_that_diverge_for_somebody_are_left_out_and_nothing_else(done, monkeypatch):
    runs, _, _ = done
    run, other = runs[1], runs[2]
    manifest = read_manifest(run.path)
    evaluating = importlib.import_module("metacsr_jax.evaluate")
    rank_scenario = evaluating.rank_scenario

    def diverging(problem, score, scenario, steps, batch=None):
        if scenario == "warm" and steps == 1:
            raise NonFiniteError("user 3: NaN")
        return rank_scenario(problem, score, scenario, steps, batch)

    monkeypatch.setattr(evaluating, "rank_scenario", diverging)
    update_manifest(run.path, chosen_adapt_steps=0, evaluated_step=-1)
    try:
        outcomes = run_all([run, other], progress=False, say=lambda line: None)
        assert [outcome.status for outcome in outcomes] == ["finished"] * 2
        found = finished(outcomes)
        assert [one.steps for one in found] == [{"none": 0}] * 2
        assert summary_rows(found, ("cold", "warm"), ("sampled-30", "full"), 10)
    finally:
        steps = manifest["chosen_adapt_steps"]
        update_manifest(run.path, chosen_adapt_steps=steps, diverged_steps=[], evaluated_step=-1)


def test_runs_of_two_protocols_are_not_compared(done):
    _, outcomes, _ = done
    path = outcomes[0].run.path
    protocol = read_manifest(path)["protocol"]
    update_manifest(path, protocol={**protocol, "sha256_all": "another"})
    with pytest.raises(WorkdirError, match="trained on two protocols"):
        finished(outcomes)
    update_manifest(path, protocol=protocol)
    assert len(finished(outcomes)) == len(outcomes)


def test_a_model_that_fails_does_not_stop_the_others(tmp_path):
    said = []
    runs = small(tmp_path, ["popular", "ease"])
    broken = runs[0]._replace(
        config=compare.settings.override(runs[0].config, ["protocol.num_negatives=100000"])
    )
    outcomes = run_all([broken, runs[1]], progress=False, say=said.append)
    assert [outcome.status for outcome in outcomes] == ["failed", "finished"]
    assert "num_negatives=100000" in outcomes[0].message
    assert [run.model for run in finished(outcomes)] == ["ease"]


def test_an_error_of_any_kind_is_one_models_own(tmp_path, monkeypatch):
    fit = compare.fit

    def exhausted(log, config, *args, **kwargs):
        if config.train.model == "popular":
            raise MemoryError("17 GiB")
        return fit(log, config, *args, **kwargs)

    monkeypatch.setattr(compare, "fit", exhausted)
    runs = small(tmp_path, ["popular", "markov"])
    outcomes = run_all(runs, progress=False, say=lambda line: None)
    assert [outcome.status for outcome in outcomes] == ["failed", "finished"]
    assert outcomes[0].message == "MemoryError: 17 GiB"


def test_an_interrupt_ends_it_and_the_same_call_resumes(tmp_path, monkeypatch):
    runs = small(tmp_path, ["popular", "markov", "random"])
    evaluate = compare.evaluate

    def interrupted(path, **kwargs):
        if "markov" in str(path):
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(compare, "evaluate", interrupted)
        outcomes = run_all(runs, progress=False, say=lambda line: None)
    assert [outcome.status for outcome in outcomes] == ["finished", "interrupted", "not reached"]
    outcomes = run_all(runs, progress=False, say=lambda line: None)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3
    fit = compare.fit

    def at_the_end(*args, **kwargs):
        """A signal that training sees after its last step."""
        result = fit(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(compare, "fit", at_the_end)
    more = small(tmp_path, ["ease", "popular", "popular-first"])
    outcomes = run_all(more, progress=False, say=lambda line: None)
    assert [outcome.status for outcome in outcomes] == ["interrupted", "finished", "not reached"], (
        "what an earlier call finished counts"
    )


def test_steps_that_a_comparison_shows():
    validation = {"0": {"map": 0.5}, "1": {"map": 0.4}, "5": {"map": 0.45}, "10": {"map": 0.45}}
    assert wanted_steps({"validation": validation}, adapts=True) == (0, 5)
    assert wanted_steps({"validation": validation}, adapts=False) == (0,)
    assert wanted_steps({"validation": {"0": {"map": 0.5}}}, adapts=True) == (0,)


def test_names_and_settings():
    assert model_names(["all"]) == list(MODELS)
    assert model_names(["bpr", "ease", "bpr"]) == ["bpr", "ease"]
    with pytest.raises(ConfigError, match="unknown model 'sasrek'"):
        model_names(["sasrek"])
    with pytest.raises(ConfigError, match="no seeds"):
        make_runs("synthetic", ["bpr"], [], "x")
    made = make_runs("synthetic", ["metacsr", "bpr", "melu", "ease"], [0], "x")
    assert [run.config.evaluation.adapt_steps for run in made] == [(0, 1, 5, 10, 20)] * 3 + [(0,)]
    run = make_runs("synthetic", ["bpr"], [3], "x", ["bpr.batch=7"], {"bpr": {"bpr.rate": 0.5}})[0]
    assert (run.config.train.seed, run.config.bpr.batch, run.config.bpr.rate) == (3, 7, 0.5)


def test_the_command(tmp_path):
    sets = [f"--set={text}" for text in SETS]
    workdir = tmp_path / "run"
    good = ["--models=popular,markov", f"--workdir={workdir}", "--noprogress", *sets]
    results = launch_many(
        "compare",
        [
            good,
            ["--models=populer", f"--workdir={tmp_path / 'a'}"],
            ["--seeds=0,one", f"--workdir={tmp_path / 'b'}"],
            [*good[1:], "--models=popular", "--set=protocol.num_negatives=7"],
            [*good, f"--tuned={tmp_path}"],
        ],
    )
    assert [result.code for result in results] == [0, 2, 2, 2, 2], results
    assert (
        "the paper's Table 3" in results[0].out and "[2/2] markov, seed 0: done" in results[0].err
    )
    assert "unknown model 'populer'" in results[1].err
    assert "--seeds=0,one: expected whole numbers" in results[2].err
    assert "belongs to another configuration" in results[3].err
    assert "no MODEL.json" in results[4].err
    assert (workdir / "comparison.md").exists()
