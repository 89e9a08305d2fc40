"""The search: equal budgets, resumable, on validation users only."""

import csv
import math
from types import SimpleNamespace

import pytest
from rivals import LOG, rival_config
from tiny import launch_many

from metacsr_jax import pace, presets, settings, tune
from metacsr_jax.errors import ConfigError, WorkdirError
from metacsr_jax.log import load_log
from metacsr_jax.problem import make_problem
from metacsr_jax.protocol import build_protocol
from metacsr_jax.registry import MODELS
from metacsr_jax.search import SPACES, Range
from metacsr_jax.workdir import read_json

pytest.importorskip("optuna", reason="optuna is not installed (the extra named `tune`)")
SMALL_SPACE = {"markov.lags": Range(1, 3, whole=True), "markov.decay": Range(0.3, 1.0)}


def search(config, minutes, workdir, **kwargs):
    said = []
    found = tune.tune(lambda: load_log(config), config, minutes, workdir, say=said.append, **kwargs)
    return found, said


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock takes a second."""
    now = iter(range(10**9))
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: float(next(now))))


def test_every_model_has_a_space_of_settings_that_exist():
    assert set(SPACES) == set(MODELS)
    for model, space in SPACES.items():
        config = presets.preset("movielens-1m/tuned", model)
        for name, searched in space.items():
            ends = searched[:2] if isinstance(searched, Range) else searched
            for value in ends:
                settings.replace(config, {name: value})


def test_a_search_starts_with_the_preset_and_keeps_the_best(tmp_path, clock):
    config = rival_config("markov")
    found, said = search(config, 0.2, tmp_path, space=SMALL_SPACE)
    with (tmp_path / "markov" / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == found.trials == len(said) >= 3
    assert trials[0]["markov.lags"] == "" and trials[0]["markov.decay"] == "", "the preset itself"
    values = [float(trial["validation MAP"]) for trial in trials]
    assert found.value == max(values)
    content = read_json(tmp_path / "markov.json")
    assert content["settings"] == found.settings == tune.read_settings(tmp_path / "markov.json")
    assert tune.read_tuned(tmp_path, "synthetic") == {"markov": content}
    line = tune.searched({"markov": content}, ["markov", "bpr"])
    assert f"markov ({found.trials} trials, " in line and "From the preset alone: bpr" in line
    again = settings.replace(config, found.settings)
    other, _ = search(again, 0.01, tmp_path / "again", space=SMALL_SPACE)
    assert other.value == pytest.approx(found.value), "the settings give what the trial had"


def test_time_that_was_spent_counts_and_more_time_continues(tmp_path, clock):
    config = rival_config("markov")
    first, _ = search(config, 0.1, tmp_path, space=SMALL_SPACE)
    same, said = search(config, 0.1, tmp_path, space=SMALL_SPACE)
    assert (same.trials, said) == (first.trials, []), "the budget is spent"
    more, _ = search(config, 0.2, tmp_path, space=SMALL_SPACE)
    assert more.trials > first.trials and more.value >= first.value
    with pytest.raises(WorkdirError, match=r"another configuration.*markov\.lags: 5, 4"):
        search(settings.override(config, ["markov.lags=4"]), 0.2, tmp_path, space=SMALL_SPACE)


def test_a_trial_is_cut_when_its_time_is_over(tmp_path, clock, monkeypatch):
    config = rival_config("bpr", {"train.steps": 200})
    monkeypatch.setattr(tune, "measure_pace", lambda *args: pace.Pace({}, 1.0, 0.0))
    _, said = search(config, 0.2, tmp_path, trial_minutes=0.1, space={"bpr.rate": (0.01, 0.02)})
    assert "time over at epoch 6)" in said[0], (
        "three dispatches of two; a fourth would end too late"
    )


def test_a_trial_that_diverges_is_a_failed_one(tmp_path, clock):
    config = rival_config("bpr", {"train.steps": 2})
    space = {"bpr.rate": (1e38,), "bpr.init_scale": (1e30,)}
    found, said = search(config, 0.15, tmp_path, space=space)
    assert found.trials > 1 and math.isfinite(found.value), "the preset's trial"
    # On a busy machine a line before says that trials are shortened.
    assert any("trial 1: validation MAP - (step 1: loss" in line for line in said)
    assert found.settings == {}


def test_nothing_held_out_but_validation_is_looked_at(tmp_path, monkeypatch, clock):
    from metacsr_jax import problem

    looked = set()
    cases = problem.protocols.cases

    def recording(protocol, scenario):
        looked.add(scenario)
        return cases(protocol, scenario)

    monkeypatch.setattr(problem.protocols, "cases", recording)
    search(rival_config("markov"), 0.1, tmp_path, space=SMALL_SPACE)
    assert looked == {"validation"}


def test_draws_that_are_refused_are_failed_trials_and_too_many_end_the_search(tmp_path, clock):
    config = rival_config("markov")
    found, said = search(config, 5, tmp_path, space={"markov.lags": (-1, -2)})
    assert found.trials == 1 + tune.REFUSED and found.settings == {}
    assert "validation MAP - (markov.lags=-" in said[1] and "came to nothing" in said[-1]


def test_an_interrupted_or_killed_trial_is_repeated_and_not_charged(tmp_path, clock, monkeypatch):
    config = rival_config("markov")

    class Once:
        received = 0

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

    def interrupted(*args):
        Once.received = 15
        return None, None, tune.INTERRUPTED

    with monkeypatch.context() as patch:
        patch.setattr(tune, "_try", interrupted)
        patch.setattr(tune, "Interrupts", Once)
        found, _ = search(config, 0.1, tmp_path, space=SMALL_SPACE)
    assert found.interrupted and found.trials == 1 and math.isnan(found.value)
    before = found.seconds

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "_try", killed)
        with pytest.raises(KeyboardInterrupt):
            search(config, 0.1, tmp_path, space=SMALL_SPACE)
    found, said = search(config, 0.1, tmp_path, space=SMALL_SPACE)
    assert found.seconds > before and "trial 2: validation MAP 0." in said[0]
    with (tmp_path / "markov" / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert [trial["ended"] for trial in trials[:2]] == ["interrupted", "killed"]
    assert trials[2]["markov.lags"] == "", "the preset has its trial after all"


def test_a_training_that_does_not_fit_is_shortened_as_a_whole():
    config = rival_config("pretrain", {"train.pretrain_steps": 60, "train.steps": 20})
    chunk = config.train.chunk
    problem = make_problem(build_protocol(load_log(config), config.protocol), config)
    slow = pace.measure_pace(problem, 1e-3)
    assert slow.length["train.pretrain_steps"] == slow.length["train.steps"] == chunk
    assert slow.least > 0
    settings.replace(config, slow.length)  # may be trained
    assert pace.measure_pace(problem, 1e6).length == {}
    assert pace.shortened(problem.config, 0.5)["train.pretrain_steps"] == 30 // chunk * chunk


def test_a_model_without_settings_is_tried_once(tmp_path):
    found, said = search(rival_config("popular"), 5, tmp_path)
    assert (found.trials, len(said), found.settings) == (1, 1, {})


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="minutes=0: expected more than 0"):
        search(rival_config("popular"), 0, tmp_path)
    with pytest.raises(WorkdirError, match=r"no MODEL\.json"):
        tune.read_tuned(tmp_path, "synthetic")
    (tmp_path / "bpr.json").write_text("[]")
    with pytest.raises(WorkdirError, match="expected an object"):
        tune.read_tuned(tmp_path, "synthetic")
    (tmp_path / "bpr.json").write_text('{"settings": {}, "preset": "synthetic/tuned"}')
    assert list(tune.read_tuned(tmp_path, "synthetic")) == ["bpr"]
    with pytest.raises(
        WorkdirError, match=r"searched from the preset 'synthetic/tuned', expected 'custom/tuned'"
    ):
        tune.read_tuned(tmp_path, "custom")
    (tmp_path / "bpr.json").rename(tmp_path / "bpp.json")
    with pytest.raises(WorkdirError, match="no model has this name; nearest: bpr"):
        tune.read_tuned(tmp_path, "synthetic")


def test_the_command_and_training_with_what_it_found(tmp_path):
    sets = [f"--set={name}={value}" for name, value in LOG.items()]
    arguments = ["--model=ease", f"--workdir={tmp_path}", "--minutes=0.02", *sets]
    good, bad = launch_many("tune", [arguments, [*arguments, "--minutes=-1"]])
    assert good.code == 0, good.err
    assert "ease, trial 0: validation MAP 0." in good.out and "ease.json" in good.out
    assert bad.code == 2 and "minutes=-1.0: expected more than 0" in bad.err
    (tmp_path / "ease.json").write_text('{"settings": {"ease.regularisation": 77.0}}')
    settings_flag = f"--settings={tmp_path / 'ease.json'}"
    (trained,) = launch_many(
        "train", [["--model=ease", settings_flag, f"--workdir={tmp_path / 'run'}", *sets]]
    )
    assert trained.code == 0, trained.err
    assert read_json(tmp_path / "run" / "config.json")["ease"]["regularisation"] == 77.0
