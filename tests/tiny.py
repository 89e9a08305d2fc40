"""A whole run in seconds: a small synthetic log, a small model, a work directory trained once a session."""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metacsr_jax import presets, settings
from metacsr_jax.checkpoint import Checkpoints, abstract_on
from metacsr_jax.config import Config
from metacsr_jax.log import load_log
from metacsr_jax.parallel import shardings
from metacsr_jax.problem import make_problem
from metacsr_jax.protocol import load_protocol
from metacsr_jax.train import FitResult, fit, initial_state
from metacsr_jax.workdir import read_config, read_records

ROOT = Path(__file__).parents[1]
LOG = {
    "synthetic.users": 150,
    "synthetic.items": 160,
    "synthetic.series": 4,
    "synthetic.groups": 2,
    "synthetic.mean_events": 16.0,
    "protocol.num_negatives": 20,
    "protocol.max_support": 4,
    "protocol.warm_support": 3,
    "model.dim": 8,
    "model.max_length": 5,
    "evaluation.batch": 32,
    "evaluation.bootstrap": 20,
    "evaluation.adapt_steps": "0,1",
    "train.chunk": 2,
    "train.validate_every": 4,
    "train.save_every": 2,
}
TUNED = LOG | {
    "model.attention_dim": 0,
    "model.compress": 0,
    "model.hidden": 16,
    "tasks.tasks": 4,
    "tasks.support": 3,
    "tasks.query": 3,
    "tasks.pretrain_batch": 32,
    # A constant rate: runs of other lengths are the same programs.
    "optimizer.warmup": 0,
    "optimizer.schedule": "constant",
    "train.pretrain_steps": 4,
    "train.steps": 8,
}
PAPER = LOG | {
    "tasks.tasks": 2,
    "tasks.way": 3,
    "tasks.support": 2,
    "tasks.query": 3,
    "loss.negatives": 4,
    "train.steps": 4,
    "evaluation.group_size": 4,
}
KINDS = {"tuned": TUNED, "paper": PAPER}


def config(kind: str = "tuned", /, **changes: Any) -> Config:
    """A tiny configuration; changes name settings with two underscores for the dot: `train__steps=2`."""
    return settings.replace(presets.preset(f"synthetic/{kind}"), values(kind, **changes))


def values(kind: str = "tuned", /, **changes: Any) -> dict[str, Any]:
    """What `config` changes in the preset, by dotted name."""
    return KINDS[kind] | {name.replace("__", "."): value for name, value in changes.items()}


def flags(kind: str = "tuned", /, **changes: Any) -> list[str]:
    """The same configuration as flags of experiments.train."""
    changed = values(kind, **changes)
    sets = [f"--set={name}={value}" for name, value in changed.items()]
    return [f"--preset=synthetic/{kind}", *sets, "--noprogress"]


class Run(NamedTuple):
    """How a fit ended and what it said."""

    result: FitResult
    said: list[str]


def train(workdir: Path, config: Config, **kwargs: Any) -> Run:
    """Fits without a progress bar and keeps what it says."""
    said: list[str] = []
    result = fit(
        lambda: load_log(config), config, workdir, progress=False, say=said.append, **kwargs
    )
    return Run(result, said)


@functools.cache
def session_directory() -> Path:
    """A directory that all workers of a session share; conftest makes it and removes it."""
    return Path(os.environ["METACSR_TESTS_DIRECTORY"])


def once(name: str, make: Callable[[Path], None]) -> Path:
    """What takes long, made by the first worker that asks while the others wait; not to be changed."""
    path = session_directory() / name
    with (session_directory() / f"{name}.done").open("a") as done:
        fcntl.flock(done, fcntl.LOCK_EX)
        if not os.fstat(
            done.fileno()
        ).st_size:  # another worker may have written since it was opened
            make(path)
            done.write("yes")
    return path


def trained_once(name: str, config: Config) -> Path:
    """A finished work directory."""

    def make(workdir: Path) -> None:
        assert train(workdir, config).result.status == "finished"

    return once(name, make)


@functools.cache
def trained(kind: str = "tuned") -> Path:
    """A finished work directory, trained once a session and not to be changed: copy it to write there."""
    return trained_once(kind, config(kind))


def copy(workdir: Path, to: Path) -> Path:
    """A copy of a work directory that a test may change."""
    return Path(shutil.copytree(workdir, to))


def saved_state(workdir: Path, step: int | None = None):
    """The training state of a saved step, the last one by default, on the host."""
    config = read_config(workdir)
    problem = make_problem(load_protocol(workdir / "protocol"), config)
    abstract = jax.eval_shape(lambda: initial_state(problem))
    placed = shardings(abstract, None, config.model.tables)
    checkpoints = Checkpoints(workdir / "checkpoints", config.train.keep)
    with contextlib.closing(checkpoints):
        step = checkpoints.steps()[-1] if step is None else step
        return jax.device_get(checkpoints.restore(step, abstract_on(abstract, placed)))


def records(workdir: Path) -> list[Mapping[str, Any]]:
    """metrics.jsonl without the wall clock."""
    lines = read_records(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Two finished work directories hold the same bits, records and choices."""
    assert_same_bits(saved_state(one), saved_state(other))
    assert records(one) == records(other)
    chosen = ("status", "step", "best_step", "chosen_adapt_steps", "validation")
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (one, other)]
    here, there = ({name: manifest[name] for name in chosen} for manifest in manifests)
    assert here == there


def assert_same_bits(one: Any, other: Any) -> None:
    """Two trees have the same leaves, to the last bit."""
    here, there = jax.tree.flatten_with_path(one)[0], jax.tree.flatten_with_path(other)[0]
    assert [path for path, _ in here] == [path for path, _ in there]
    for (path, left), (_, right) in zip(here, there, strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes(), jax.tree_util.keystr(path)


@contextlib.contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A launcher that runs meanwhile; killed at the latest when the context ends."""
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# Starting Python and JAX takes seconds, so that one process runs many commands of a launcher in turn.
_MANY = """
import contextlib, importlib, io, json, sys
from absl import flags
from experiments import launch
module, commands = sys.argv[1], json.load(sys.stdin)
main = importlib.import_module("experiments." + module).main
flags.FLAGS.mark_as_parsed()
results = []
for arguments in commands:
    sys.argv = [module, *arguments]
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            launch.run(main)
        except SystemExit as end:
            code = end.code
    results.append([code or 0, out.getvalue(), err.getvalue()])
json.dump(results, sys.stdout)
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def launch_many(module: str, commands: Sequence[Sequence[str]]) -> list[Ended]:
    """Commands of one launcher, in one fresh process."""
    process = subprocess.run(
        [sys.executable, "-c", _MANY, module],
        cwd=ROOT,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [Ended(*ended) for ended in json.loads(process.stdout)]
