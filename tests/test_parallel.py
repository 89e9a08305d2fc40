"""One device, eight devices and two processes end in the same training; what cannot be dealt out is refused.

Devices are eight forced ones of the host, in a process of their own: their number is fixed when JAX starts.
"""

import functools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
import tiny

from metacsr_jax import parallel, presets, settings
from metacsr_jax.errors import ConfigError
from metacsr_jax.evaluate import evaluate
from metacsr_jax.problem import make_problem
from metacsr_jax.protocol import load_protocol
from metacsr_jax.train import initial_state

DEVICES = 8
CHANGES = {
    "tasks__tasks": DEVICES,
    "tasks__pretrain_batch": 32,
    "train__pretrain_steps": 2,
    "train__steps": 4,
    "train__validate_every": 2,
    "meta__samples_at_once": 32,  # two of the tasks at a time
}
PROGRAM = """
import json, sys
from pathlib import Path
import tiny
directory, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
for name, devices, more in json.loads(sys.argv[3]):
    run = tiny.train(directory / name, tiny.config("paper", **changes, **more), devices=devices)
    assert run.result.status == "finished"
    print(name, *run.said, sep=" | ")
"""


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many host devices."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    count = f"--xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")])
    return os.environ | {"XLA_FLAGS": f"{flags} {count}", "PYTHONPATH": path}


@functools.cache
def trained_on_many(directory: Path) -> str:
    """Trains on one device, on eight, and on eight with split tables; returns what was said."""
    runs = [
        ("one", 1, {}),
        ("eight", DEVICES, {}),
        ("rows", DEVICES, {"model__tables": "rows"}),
    ]
    command = [sys.executable, "-c", PROGRAM, str(directory), json.dumps(CHANGES), json.dumps(runs)]
    done = subprocess.run(command, env=environment(DEVICES), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("many")
    trained_on_many(directory)
    return directory


def assert_same(state, other, rows=False):
    """Equal up to rounding; `rows`: tables of `other` go on with zeros."""

    def compare(path, leaf, of_other):
        of_other = np.asarray(of_other)
        if rows and of_other.shape != np.shape(leaf):
            assert not of_other[len(leaf) :].any(), path
            of_other = of_other[: len(leaf)]
        np.testing.assert_allclose(of_other, leaf, rtol=2e-3, atol=2e-5, err_msg=str(path))

    jax.tree_util.tree_map_with_path(compare, state, other)


@pytest.mark.parametrize("other", ["eight", "rows"])
def test_one_device_and_eight_end_in_the_same_state(directory, other):
    one = tiny.saved_state(directory / "one")
    assert int(one.step) == 6
    assert_same(one.params, tiny.saved_state(directory / other).params, rows=other == "rows")


def test_devices_and_processes_are_said(directory):
    said = trained_on_many(directory)
    assert said.count("8 devices, 1 processes") == 2


def test_validation_is_the_same_on_one_device_and_eight(directory):
    losses = [
        [
            record["loss"]
            for record in tiny.read_records(directory / name / "metrics.jsonl")
            if "loss" in record
        ]
        for name in ("one", "eight", "rows")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)


def test_a_checkpoint_of_eight_devices_with_split_tables_opens_on_one(directory):
    rows = {name: evaluate(directory / name, adapt_steps=(1,)) for name in ("one", "rows")}
    for one, other in zip(rows["one"], rows["rows"], strict=True):
        assert (one["metric"], one["candidates"]) == (other["metric"], other["candidates"])
        np.testing.assert_allclose(other["value"], one["value"], atol=0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_train_together(directory, tmp_path):
    """Through the launcher, two devices each, into one work directory."""
    port, workdir = free_port(), tmp_path / "together"
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}"]
    command += tiny.flags("paper", **CHANGES)
    command += [f"--coordinator=localhost:{port}", "--processes=2"]
    started = [
        subprocess.Popen(
            [*command, f"--process_id={number}"],
            env=environment(2),
            cwd=tiny.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "4 devices, 2 processes" in said[0]
    assert "devices" not in said[1], "only the first process speaks"
    assert_same(tiny.saved_state(directory / "one").params, tiny.saved_state(workdir).params)
    records = tiny.read_records(workdir / "metrics.jsonl")
    one = tiny.read_records(directory / "one" / "metrics.jsonl")
    assert [record["step"] for record in records] == [record["step"] for record in one]


def test_the_training_step_lowers_for_a_tpu():
    """On any machine; the program itself runs on TPUs alone."""
    problem = make_problem(load_protocol(tiny.trained("paper") / "protocol"), tiny.config("paper"))
    chunk = problem.model.phases[-1].chunk
    state = jax.eval_shape(lambda: initial_state(problem))
    exported = jax.export.export(chunk, platforms=["tpu"])(
        state, problem.model.data, jax.random.key(0)
    )
    assert exported.platforms == ("tpu",)


@pytest.mark.parametrize(
    ("devices", "changes", "message"),
    [
        (9, {}, "devices=9: there are 8"),
        (0, {"tasks__tasks": 12}, "tasks.tasks=12 on 8 devices: expected a multiple of 8"),
        (5, {"tasks__tasks": 8}, "tasks.tasks=8 on 5 devices"),
        (
            8,
            {"tasks__tasks": 8, "train__pretrain_steps": 2, "tasks__pretrain_batch": 33},
            "tasks.pretrain_batch=33 on 8 devices",
        ),
        (
            6,
            {"tasks__tasks": 6, "model__tables": "rows"},
            "model.tables=rows on 6 devices: expected 2, 4, 8, 16, 32 or 64",
        ),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(monkeypatch, devices, changes, message):
    monkeypatch.setattr(jax, "device_count", lambda: DEVICES)
    with pytest.raises(ConfigError, match=message):
        parallel.make_mesh(tiny.config("paper", **changes), devices)


def test_a_single_device_needs_no_mesh():
    assert parallel.make_mesh(tiny.config("paper"), 1) is None


def test_a_rival_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = settings.replace(presets.preset("synthetic/tuned", "bpr"), tiny.LOG)
    with pytest.raises(ConfigError, match="bpr trains on one device"):
        parallel.make_mesh(config)


def test_a_process_number_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="process 2 of 2: expected 0 to 1"):
        parallel.connect("localhost:1", 2, 2)
