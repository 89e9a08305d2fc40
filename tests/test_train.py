"""Training end to end: stopping and resuming, early stopping, non-finite losses, compilation, every variant."""

import contextlib
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from tiny import (
    assert_same_bits,
    assert_same_run,
    config,
    copy,
    flags,
    records,
    saved_state,
    started,
    train,
    trained,
)

from metacsr_jax import metacsr, settings
from metacsr_jax import train as training
from metacsr_jax import workdir as workdirs
from metacsr_jax.checkpoint import Checkpoints
from metacsr_jax.errors import NonFiniteError, WorkdirError
from metacsr_jax.evaluate import evaluate
from metacsr_jax.log import load_log
from metacsr_jax.metacsr import make_parts
from metacsr_jax.monitor import Monitor
from metacsr_jax.problem import make_problem
from metacsr_jax.protocol import build_protocol
from metacsr_jax.trained import load_trained

COMPILATION = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def at_chunk(monkeypatch):
    """Calls a function with the step after every recorded chunk of the next fits."""

    def install(do):
        class Acting(Monitor):
            def steps(self, step, phase, reports, seconds):
                super().steps(step, phase, reports, seconds)
                do(step)

        monkeypatch.setattr(training, "Monitor", Acting)

    return install


@pytest.fixture
def compiled():
    """A list that grows by one with every program that XLA is asked for, cached or not."""
    events: list[str] = []

    def listen(event, duration, **kwargs):
        del duration, kwargs
        if event == COMPILATION:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_run_leaves_the_parts_of_a_work_directory():
    workdir = trained()
    parts = {entry.name for entry in workdir.iterdir()}
    assert {
        "config.json",
        "manifest.json",
        "protocol",
        "checkpoints",
        "metrics.jsonl",
        "events",
    } <= parts
    manifest = workdirs.read_manifest(workdir)
    assert (manifest["status"], manifest["step"], manifest["seed"]) == ("finished", 12, 0)
    assert manifest["model"] == "metacsr" and manifest["dataset"] == "synthetic"
    assert (
        manifest["chosen_adapt_steps"] in (0, 1) and manifest["protocol"] and manifest["versions"]
    )
    lines = records(workdir)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["phase"] for line in lines if "loss" in line] == ["pretrain"] * 2 + ["meta"] * 4
    validated = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert {step: set(by_steps) for step, by_steps in validated.items()} == {
        4: {"0"},
        8: {"0", "1"},
        12: {"0", "1"},
    }
    by_map = max(
        (8, 12), key=lambda step: max(metrics["map"] for metrics in validated[step].values())
    )
    assert manifest["best_step"] == by_map
    assert manifest["validation"] == validated[by_map]
    assert list((workdir / "events").glob("events.out.tfevents.*"))


def test_training_changes_every_part_and_repeats_to_the_bit(tmp_path):
    start = saved_state(trained(), workdirs.read_manifest(trained())["best_step"])
    end = saved_state(trained())
    for part in ("representer", "encoder", "rates"):
        pairs = zip(*(jax.tree.leaves(state.params[part]) for state in (start, end)), strict=True)
        assert any((one != other).any() for one, other in pairs) or int(start.step) == int(end.step)
    train(tmp_path / "again", config())
    assert_same_run(trained(), tmp_path / "again")


def test_another_seed_gives_another_model_on_the_same_protocol(tmp_path):
    train(tmp_path / "one", config(train__seed=1, train__steps=2))
    manifest = workdirs.read_manifest(tmp_path / "one")
    assert manifest["seed"] == 1
    assert manifest["protocol"] == workdirs.read_manifest(trained())["protocol"]
    tables = [
        saved_state(path).params["representer"]["item_embedding"]
        for path in (trained(), tmp_path / "one")
    ]
    assert (tables[0] != tables[1]).any()


def test_a_finished_run_says_so_and_does_nothing(tmp_path, monkeypatch):
    workdir = copy(trained(), tmp_path / "run")
    before = {file: file.stat().st_mtime_ns for file in workdir.rglob("*")}
    monkeypatch.setattr(training, "_train", None)
    run = train(workdir, config())
    assert len(run.said) == 1 and "finished" in run.said[0] and "nothing to do" in run.said[0]
    assert run.result.status == "finished" and run.result.step == 12
    assert run.result.chosen_adapt_steps == workdirs.read_manifest(workdir)["chosen_adapt_steps"]
    assert set(run.result.validation) == {0, 1}
    assert {file: file.stat().st_mtime_ns for file in workdir.rglob("*")} == before


def test_a_work_directory_of_another_configuration_is_refused():
    with pytest.raises(WorkdirError, match=r"train\.seed: 0, 1"):
        train(trained(), config(train__seed=1))


@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGTERM, 2), (signal.SIGINT, 6), (signal.SIGTERM, 12)]
)
def test_a_signal_saves_and_the_resumed_run_ends_in_the_same_bits(tmp_path, at_chunk, number, at):
    at_chunk(lambda step: os.kill(os.getpid(), number) if step == at else None)
    handler = signal.getsignal(number)
    first = train(tmp_path / "run", config())
    assert signal.getsignal(number) is handler
    if at < 12:
        assert (first.result.status, first.result.step) == ("interrupted", at)
        assert f"interrupted at step {at}" in first.said[-1]
        assert int(saved_state(tmp_path / "run").step) == at
        at_chunk(lambda step: None)
        second = train(tmp_path / "run", config())
        assert f"resumed from step {at}" in second.said
        assert second.result.status == "finished"
    else:  # nothing was left to do
        assert first.result.status == "finished"
    assert_same_run(trained(), tmp_path / "run")


def test_a_second_ctrl_c_stops_at_once_and_loses_no_more_than_the_chunk(tmp_path, at_chunk):
    def twice(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    at_chunk(twice)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", config())
    at_chunk(lambda step: None)
    assert "resumed from step 4" in train(tmp_path / "run", config()).said
    assert_same_run(trained(), tmp_path / "run")


@pytest.mark.parametrize("failing", ["make_problem", "initial_state", "_finish"])
def test_a_run_that_dies_anywhere_resumes_to_the_same_bits(tmp_path, monkeypatch, failing):
    class Dead(BaseException):
        """As abrupt as a kill, as far as Python lets it."""

    def die(*arguments):
        raise Dead

    with monkeypatch.context() as patch, pytest.raises(Dead):
        patch.setattr(training, failing, die)
        train(tmp_path / "run", config())
    train(tmp_path / "run", config())
    assert_same_run(trained(), tmp_path / "run")


@pytest.mark.parametrize("at", [2, 6, 10])
def test_what_a_kill_leaves_in_the_midst_of_a_save_resumes_to_the_same_bits(
    tmp_path, monkeypatch, at
):
    """The directory as it lies while the checkpointer writes in the background."""
    save = Checkpoints.save

    def snapshot(self, state, progress):
        step = int(state.step)
        save(self, state, progress)
        if step == at:
            with contextlib.suppress(shutil.Error):  # files that were renamed meanwhile
                copy(tmp_path / "run", tmp_path / "killed")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", snapshot)
        train(tmp_path / "run", config())
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    said = train(tmp_path / "killed", config()).said
    assert (
        any(line == f"resumed from step {step}" for line in said for step in (at - 2, at))
        or at == 2
    )
    assert_same_run(trained(), tmp_path / "killed")


def test_a_process_killed_and_another_interrupted_end_in_the_same_bits(tmp_path):
    """SIGKILL in the midst of it, whatever it is doing; the same command and SIGINT; then the rest."""
    workdir = tmp_path / "run"
    arguments = (*flags("tuned"), f"--workdir={workdir}")
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        with started("train", *arguments) as process:
            beginning = (workdir / "metrics.jsonl").stat().st_mtime_ns if records(workdir) else 0
            deadline = time.monotonic() + 900
            while process.poll() is None and time.monotonic() < deadline:
                if records(workdir) and (workdir / "metrics.jsonl").stat().st_mtime_ns != beginning:
                    break
                time.sleep(0.002)
            process.send_signal(number)
            out, err = process.communicate(timeout=900)
        if process.returncode == 0:
            break  # it was faster
        assert process.returncode == code, err
        if number == signal.SIGINT:
            assert "interrupted at step" in out and "saved" in out
            assert "Traceback" not in err
    saved = [
        int(entry.name) for entry in (workdir / "checkpoints").glob("*") if entry.name.isdigit()
    ]
    last = train(workdir, config())
    assert f"resumed from step {max(saved)}" in last.said or "nothing to do" in last.said[-1]
    assert_same_run(trained(), workdir)


def test_early_stopping_waits_for_patience_and_survives_a_kill(tmp_path, monkeypatch):
    maps = {
        6: 0.1,
        8: 0.3,
        10: 0.2,
        12: 0.2,
        14: 0.1,
        16: 0.9,
    }  # by step: the best one, two worse, the end

    def scripted(problem):
        steps = iter(sorted(maps))
        step = {"at": 4}

        def validate(params, adapt_steps):
            if tuple(adapt_steps) == (0,):
                return {0: {"auc": 0.5, "map": 0.05}}  # while pre-training
            step["at"] = next(steps, step["at"])
            return {0: {"auc": 0.5, "map": maps[step["at"]]}, 1: {"auc": 0.5, "map": 0.0}}

        return validate

    monkeypatch.setattr(training, "make_validation", scripted)
    patient = config(train__patience=2, train__steps=12, train__validate_every=2)
    run = train(tmp_path / "run", patient)
    assert (run.result.status, run.result.step, run.result.best_step) == ("finished", 12, 8)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(training, "_finish", lambda *arguments: 1 // 0)
        train(tmp_path / "killed", patient)
    again = train(tmp_path / "killed", patient)
    assert "resumed from step 12" in again.said
    assert (again.result.step, again.result.best_step) == (12, 8)
    assert_same_bits(saved_state(tmp_path / "run"), saved_state(tmp_path / "killed"))


def test_a_loss_that_is_not_finite_stops_with_step_and_norms(tmp_path):
    bad = config(optimizer__pretrain_rate=1e30)
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path / "run", bad)
    for part in ("step 2", "loss", "gradient norm", "parameter norm", "optimizer.rate"):
        assert part in str(caught.value)
    assert workdirs.read_manifest(tmp_path / "run")["status"] == "training"
    with pytest.raises(NonFiniteError, match="step 2"):  # and again
        train(tmp_path / "run", bad)


def test_nothing_compiles_after_each_phase_has_begun(tmp_path, at_chunk, compiled):
    counts = {}
    at_chunk(lambda step: counts.update({step: len(compiled)}))
    train(tmp_path / "run", config(train__pretrain_steps=8, train__steps=16))
    assert compiled, "the listener hears of compilations"
    # Steps 2 and 4 pre-train, 4 validates at 0 steps; 10 is the first of meta-training, 12 validates at 0 and 1.
    assert counts[8] == counts[6], "pre-training"
    assert counts[24] == counts[22] == counts[20] == counts[18] == counts[16] == counts[14], (
        "meta-training"
    )


def test_the_loop_refuses_implicit_transfers(tmp_path, monkeypatch):
    make_chunk = metacsr.make_chunk

    def careless(*arguments, **kwargs):
        chunk = make_chunk(*arguments, **kwargs)
        return lambda state, data, key: chunk(state, jax.tree.map(np.asarray, data), key)

    monkeypatch.setattr(metacsr, "make_chunk", careless)
    with pytest.raises(Exception, match=r"[Dd]isallowed.*transfer"):
        train(tmp_path / "run", config())


VARIANTS = {
    "maml, gru": {"meta__method": "maml", "model__encoder": "gru", "meta__inner_rate": 0.01},
    "reptile, transformer": {"meta__method": "reptile", "model__encoder": "transformer"},
    "fomaml, bce, without attention (table 5)": {
        "meta__method": "fomaml",
        "model__encoder": "mean",
        "loss__name": "bce",
    },
    "anil, without diffusion (table 5)": {"meta__method": "anil", "model__diffusion": False},
    "two hops, max, without meta-learning (table 5)": {
        "meta__method": "none",
        "model__hops": 2,
        "model__aggregator": "max",
    },
    "as printed, mlp, feature-wise": {"model__predictor": "mlp", "model__attention": "feature"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_evaluates(tmp_path, name):
    kind = "paper" if name.startswith("as printed") else "tuned"
    short = {"train__steps": 4, "evaluation__batch": 12, "evaluation__adapt_steps": "1"}
    if kind == "tuned":
        short["train__pretrain_steps"] = 0
    run = train(tmp_path / "run", config(kind, **short, **VARIANTS[name]))
    assert run.result.status == "finished"
    losses = [line for line in records(run.result.workdir) if "loss" in line]
    assert all(np.isfinite(line["loss"]) for line in losses)
    shifts = [line["shift"] for line in losses]
    assert (
        all(shift == 0 for shift in shifts)
        if "without meta" in name
        else all(shift > 0 for shift in shifts)
    )
    rows = evaluate(run.result.workdir, scenarios=["cold"], adapt_steps=[1], adapt_per=["user"])
    assert len(rows) and all(np.isfinite(row["value"]) for row in rows)
    parameters = load_trained(run.result.workdir).params["representer"]
    assert ("user_embedding" in parameters) == ("without diffusion" not in name)


def test_features_from_files_reach_the_model(tmp_path):
    """Features of an item or of a user change the table of items; their projections are parameters of theta_1."""
    plain = load_log(config())
    generator = np.random.default_rng(0)
    rows = zip(
        plain.user_ids[plain.user_E], plain.item_ids[plain.item_E], plain.time_E, strict=True
    )
    (tmp_path / "log.csv").write_text(
        "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    )
    paths = {"item": plain.item_ids, "user": plain.user_ids}
    for side, ids in paths.items():
        lines = [
            f"{one},{a:.3f},{b:.3f}\n"
            for one, (a, b) in zip(ids, generator.random((ids.size, 2)), strict=True)
        ]
        (tmp_path / f"{side}.csv").write_text(f"{side},a,b\n" + "".join(lines))
    with_files = config(
        data__path=str(tmp_path / "log.csv"),
        data__item_features=str(tmp_path / "item.csv"),
        data__user_features=str(tmp_path / "user.csv"),
    )
    with_files = settings.renamed(
        with_files, "custom/tuned"
    )  # a log of its own, not the embedded one
    protocol = build_protocol(load_log(with_files), with_files.protocol)
    state = jax.jit(lambda: training.initial_state(make_problem(protocol, with_files)))()
    parts = make_parts(protocol, with_files)
    theta_1 = state.params["representer"]
    assert theta_1["item_features"]["kernel"].shape == (2, 8)
    assert theta_1["user_features"]["kernel"].shape == (2, 8)
    inputs = parts.data.inputs
    table = parts.network.represent(theta_1, inputs).vector_ID
    for name in ("item_features_IF", "user_features_RF"):
        other = inputs._replace(**{name: getattr(inputs, name) + 1.0})
        changed = parts.network.represent(theta_1, other).vector_ID
        assert not np.allclose(changed, table, atol=1e-4), name


def test_fit_takes_a_log_as_it_is_and_asks_for_it_only_once(tmp_path, at_chunk):
    small = config(train__steps=2)
    at_chunk(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None)
    training.fit(load_log(small), small, tmp_path / "run", progress=False, say=lambda line: None)
    at_chunk(lambda step: None)

    def not_again():
        raise AssertionError("the work directory has its protocol")

    result = training.fit(not_again, small, tmp_path / "run", progress=False, say=lambda line: None)
    assert result.status == "finished"


def test_a_damaged_protocol_stops_a_resumed_run(tmp_path):
    workdir = copy(trained(), tmp_path / "run")
    workdirs.update_manifest(workdir, status="training")
    shutil.copy(workdir / "protocol" / "time_E.npy", workdir / "protocol" / "item_E.npy")
    with pytest.raises(WorkdirError, match="item_E"):
        train(workdir, config())


def test_the_state_on_disk_is_the_state_of_the_run(tmp_path):
    """What training saved is what serving loads."""
    workdir = trained("tuned")
    last = load_trained(workdir, "last")
    assert last.step == 12
    assert_same_bits(jax.device_get(last.params), saved_state(workdir).params)
