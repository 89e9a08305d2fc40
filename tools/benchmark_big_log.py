"""A log of 100 million events from parquet to training steps: time and peak memory of each stage.

    python -m tools.benchmark_big_log --file=big.parquet --markdown=big.md

The log is generated into --file unless it is there: users with geometric numbers of events, two at least, items by popularity. The stages
after that run one after another in one process, as `experiments.train` does them, evaluation left out.

Dimension key: E events, R users.
"""

import gc
import json
import resource
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from absl import flags

from experiments import launch
from metacsr_jax import presets, settings
from metacsr_jax.audit import audit
from metacsr_jax.checks import check
from metacsr_jax.config import Config, DataConfig
from metacsr_jax.data.readers import read
from metacsr_jax.problem import make_problem
from metacsr_jax.protocol import build_protocol
from metacsr_jax.train import seed_keys
from tools.benchmark.timing import summary
from tools.benchmark.workload import SKEW

_FILE = flags.DEFINE_string("file", None, "Parquet file of the log; written where it is missing.")
_EVENTS = flags.DEFINE_integer("events", 100_000_000, "Of a log that is written, about.")
_USERS = flags.DEFINE_integer("users", 5_000_000, "Of a log that is written.")
_ITEMS = flags.DEFINE_integer("items", 1_000_000, "Of a log that is written, at most.")
_PRESET = flags.DEFINE_string("preset", "custom/paper", "Of the training step.")
_SET = flags.DEFINE_multi_string(
    "set",
    ["model.fan_out=10", "optimizer.lazy=true"],
    "section.name=value, any other setting; replaces these.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Dispatches that are timed.", lower_bound=1)
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table there too.")
_JSON = flags.DEFINE_string("json", None, "Write the figures there.")
GIB = 2**30


class Stages:
    """Seconds of each stage, and the most memory the process held during it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, name: str, work):
        """Runs one stage, says what it took, and returns what it made."""
        done, most = threading.Event(), [0]

        def watch() -> None:
            while not done.wait(0.05):
                most[0] = max(most[0], _resident())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        started = time.perf_counter()
        try:
            result = jax.block_until_ready(work())
        finally:
            done.set()
            watcher.join()
        seconds = time.perf_counter() - started
        gc.collect()
        row = {
            "stage": name,
            "seconds": round(seconds, 2),
            "peak_gib": round(most[0] / GIB, 2),
            "after_gib": round(_resident() / GIB, 2),
        }
        self.rows.append(row)
        print(f"{name}: {seconds:.1f} s, peak {row['peak_gib']} GiB", flush=True)
        return result


def _resident() -> int:
    """Bytes of memory that the process holds; its peak so far where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def write_log(path: Path, events: int, users: int, items: int, seed: int = 0) -> None:
    """Writes a random log: geometric numbers of events a user, two at least, items by popularity, seconds of time."""
    rng = np.random.default_rng(seed)
    count_R = 1 + rng.geometric(1 / max(events / users - 1, 1), users)
    user_E = np.repeat(np.arange(users, dtype=np.int32), count_R)
    popularity_I = np.arange(1, items + 1) ** -SKEW
    cumulated_I = np.cumsum(popularity_I / popularity_I.sum())
    name_I = rng.permutation(items).astype(np.int32)
    item_E = np.empty(user_E.size, np.int32)
    time_E = np.empty(user_E.size, np.int32)
    for start in range(0, user_E.size, 10_000_000):
        part = slice(start, min(start + 10_000_000, user_E.size))
        size = part.stop - part.start
        place = np.searchsorted(cumulated_I, rng.random(size))
        item_E[part] = name_I[np.minimum(place, items - 1)]
        time_E[part] = rng.integers(1_500_000_000, 1_600_000_000, size)
    pl.DataFrame({"user": user_E, "item": item_E, "timestamp": time_E}).write_parquet(path)


def measure(path: Path, config: Config, rounds: int) -> dict[str, Any]:
    """All stages on one log."""
    stages = Stages()
    protocol, sizes = _protocol(stages, path, config)
    model = stages.run("graph and histories, onto the device", lambda: _model(protocol, config))
    init_key, key = seed_keys(config)
    state = stages.run("parameters and moments", lambda: jax.jit(model.init)(init_key))
    phase = model.phases[-1]
    state, _ = stages.run(
        "compiling, and the first steps", lambda: phase.chunk(state, model.data, key)
    )
    taken = []

    def steps():
        nonlocal state
        for _ in range(rounds):
            started = time.perf_counter()
            state, reports = phase.chunk(state, model.data, key)
            jax.block_until_ready(reports)
            taken.append((time.perf_counter() - started) / config.train.chunk)
        return reports

    reports = stages.run(f"{rounds * config.train.chunk} outer steps", steps)
    timing = summary(taken)
    return {
        "sizes": sizes,
        "cases": {name: int(count) for name, count in _cases(protocol).items()},
        "stages": stages.rows,
        "outer_step_ms": 1000 * timing.median,
        "low_ms": 1000 * timing.low,
        "high_ms": 1000 * timing.high,
        "loss": float(reports.loss[-1]),
    }


def _protocol(stages, path, config):
    log = stages.run("reading", lambda: read(path, DataConfig()))
    sizes = {"events": log.num_events, "users": log.num_users, "items": log.num_items}
    protocol = stages.run("protocol", lambda: build_protocol(log, config.protocol))
    stages.run("audit", lambda: audit(protocol, log=log))
    return protocol, sizes


def _model(protocol, config):
    return make_problem(protocol, config).model


def _cases(protocol) -> dict[str, int]:
    return {name: len(negative_NC) for name, negative_NC in protocol.negative_NC.items()}


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    sizes = ", ".join(f"{count:,} {name}" for name, count in report["sizes"].items())
    lines = [f"{sizes}.", "", "| stage | s | peak GiB |", "|---|---|---|"]
    lines += [
        f"| {row['stage']} | {row['seconds']} | {row['peak_gib']} |" for row in report["stages"]
    ]
    lines += [
        "",
        f"An outer step: {report['outer_step_ms']:.0f} ms "
        f"[{report['low_ms']:.0f}, {report['high_ms']:.0f}].",
    ]
    return "\n".join(lines) + "\n"


def main(_: list[str]) -> int:
    chunk = [f"train.{name}=2" for name in ("chunk", "validate_every", "save_every", "steps")]
    chosen = [*chunk, "train.pretrain_steps=0", *_SET.value]
    config = settings.override(presets.preset(_PRESET.value), chosen)
    check(config)
    path = Path(_FILE.value)
    if not path.exists():
        started = time.perf_counter()
        write_log(path, _EVENTS.value, _USERS.value, _ITEMS.value)
        print(f"{path}: written in {time.perf_counter() - started:.1f} s", flush=True)
    report = measure(path, config, _ROUNDS.value)
    text = markdown(report)
    print(text, end="")
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text(text)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(report, indent=1) + "\n")
    return 0


flags.mark_flag_as_required("file")

if __name__ == "__main__":
    launch.run(main)
