"""Stages of a run on a log of any size: time and peak memory of each.

Dimension key: E events, R users, I items.
"""

import gc
import resource
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from metacsr_jax.audit import audit
from metacsr_jax.config import Config, DataConfig
from metacsr_jax.data.readers import read
from metacsr_jax.problem import make_problem
from metacsr_jax.protocol import build_protocol
from metacsr_jax.train import seed_keys
from tools.benchmark.timing import summary
from tools.benchmark.workload import SKEW

GIB = 2**30


class Stages:
    """Seconds of each stage, and the most memory the process held during it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, name: str, work):
        """Runs one stage, says what it took, and returns what it made."""
        done, most = threading.Event(), [_resident()]

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
    model = stages.run("graph and histories, onto the device", partial(_model, protocol, config))
    cases = _cases(protocol)
    del protocol  # training does not read it: it is for validation, which is left out here
    gc.collect()
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
        "cases": cases,
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
