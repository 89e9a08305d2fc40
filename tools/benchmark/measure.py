"""One configuration measured in a process of its own: step, phases, serving, memory, and the PyTorch peer in turns with it."""

import resource
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from metacsr_jax import settings
from metacsr_jax.config import Config
from metacsr_jax.kernels import native
from metacsr_jax.parallel import make_mesh, on
from metacsr_jax.score import batch_size as score_batch
from tools.benchmark.phases import (
    CASES,
    EVALUATION_STEPS,
    SERVED,
    adapting,
    evaluating,
    phases_of,
)
from tools.benchmark.timing import Timing, measure_ceilings, summary, time_calls
from tools.benchmark.work import product_flops
from tools.benchmark.workload import Sizes, Workload, draw_batch, make_workload


class Plan(NamedTuple):
    """What to measure.

    Attributes:
        config: of the step; `train.chunk` outer steps a dispatch.
        sizes: of the log.
        devices: over which tasks are dealt out; 0: all.
        rounds: dispatches that are timed, and steps of each peer between them.
        peers: kinds of `peer.KINDS`; may be empty.
        phases: time the parts alone and serving too.
    """

    config: Config
    sizes: Sizes
    devices: int
    rounds: int
    peers: tuple[str, ...]
    phases: bool


def measure(plan: Plan) -> dict[str, Any]:
    """Runs a plan; numbers and strings alone come back, times in milliseconds."""
    config = plan.config
    mesh = make_mesh(config, plan.devices)
    workload = make_workload(config, plan.sizes, mesh)
    key = jax.random.key(0)
    with on(mesh):
        state = workload.init(key)
        started = time.perf_counter()
        compiled = workload.chunk.lower(state, workload.data, key).compile()
        compile_s = time.perf_counter() - started
        state, report = compiled(state, workload.data, key)
        first_loss = float(report.loss[0])
        seconds, peer_seconds = [], {kind: [] for kind in plan.peers}
        memory = peak_memory() if not plan.peers else {}
        for _ in range(3 if plan.peers else 0):  # the peak without PyTorch in the process
            state, report = jax.block_until_ready(compiled(state, workload.data, key))
            memory = peak_memory()
        peer_step = make_peer_step(workload, state, plan.peers) if plan.peers else None
        for _ in range(plan.rounds):
            started = time.perf_counter()
            state, report = jax.block_until_ready(compiled(state, workload.data, key))
            seconds.append((time.perf_counter() - started) / config.train.chunk)
            for kind in plan.peers:
                peer_seconds[kind].append(peer_step(kind))
        memory = memory if plan.peers else peak_memory()
        if not np.isfinite(report.loss).all():
            raise FloatingPointError(f"the loss is not finite: {report.loss}")
    timing, tasks = summary(seconds), config.tasks
    samples = tasks.tasks * tasks.way * (tasks.support + tasks.query)
    result = {
        "device": device_name(),
        "kernels": kernels(mesh is not None),
        "devices": 1 if mesh is None else mesh.size,
        "config": settings.to_dict(config),
        "sizes": plan.sizes._asdict(),
        "compile_s": compile_s,
        "outer_step_ms": 1e3 * timing.median,
        "outer_step_low_ms": 1e3 * timing.low,
        "outer_step_high_ms": 1e3 * timing.high,
        "dispatches": timing.calls,
        "steps_per_dispatch": config.train.chunk,
        "tasks_per_s": tasks.tasks / timing.median,
        "samples_per_s": samples / timing.median,
        "first_loss": first_loss,
        "memory": memory,
        "peers": {kind: milliseconds(summary(taken)) for kind, taken in peer_seconds.items()},
    }
    for of_peer in result["peers"].values():
        of_peer["ratio"] = of_peer["median_ms"] / result["outer_step_ms"]
    return result | (analysis(workload, state, timing, key) if plan.phases and mesh is None else {})


def analysis(workload: Workload, state, timing: Timing, key: jax.Array) -> dict[str, Any]:
    """Phases, serving, and the work done against what the device can."""
    ceilings = measure_ceilings()
    phases = {}
    for name, phase in phases_of(workload, state, key).items():
        taken = time_calls(phase.call)
        flops = product_flops(phase.function, *phase.arguments)
        phases[name] = milliseconds(taken) | {
            "gflop": flops / 1e9,
            "gflops": flops / taken.median / 1e9,
        }
    step_flops = sum(phases[name]["gflop"] for name in ("sampling", "outer", "optimizer")) * 1e9
    # A compiler counts a loop's bytes once.
    whole = settings.replace(workload.config, {"meta.samples_at_once": 10**9})
    outer = phases_of(make_workload(whole, workload.sizes), state, key)["outer"]
    compiled = outer.function.lower(*outer.arguments).compile()
    moved = (compiled.cost_analysis() or {}).get("bytes accessed", float("nan"))
    bound = max(step_flops / ceilings.flops, moved / ceilings.bytes)
    adapted = time_calls(adapting(workload, state).call)
    at_once = score_batch(workload.config, adapt_steps=EVALUATION_STEPS)
    some = 100  # of the users one by one
    ways = {
        "batched_s": (evaluating(workload, state, at_once), CASES),
        "one_call_per_user_s": (evaluating(workload, state, 1), some),
        "one_call_per_user_by_samples_s": (evaluating(workload, state, 1, by_samples=True), some),
    }
    served = {
        name: time_calls(lambda serve=serve, users=users: serve(users), least=3, most=7).median
        * (CASES / users)
        for name, (serve, users) in ways.items()
    }
    return {
        "ceilings": {"gflops": ceilings.flops / 1e9, "gbytes_per_s": ceilings.bytes / 1e9},
        "phases": phases,
        "work": {
            "gflop": step_flops / 1e9,
            "gflops": step_flops / timing.median / 1e9,
            "share_of_product": step_flops / timing.median / ceilings.flops,
            "gbytes": moved / 1e9,
            "gbytes_per_s": moved / timing.median / 1e9,
            "bound_ms": 1e3 * bound,
            "times_bound": timing.median / bound,
        },
        "adaptations_per_s": SERVED / adapted.median,
        "evaluation": {
            "cases": CASES,
            "at_once": at_once,
            **served,
            "ratio": served["one_call_per_user_s"] / served["batched_s"],
            "ratio_by_samples": served["one_call_per_user_by_samples_s"] / served["batched_s"],
        },
    }


def make_peer_step(workload: Workload, state, kinds: tuple[str, ...]):
    """(kind) -> seconds of one step of the peer on a fresh batch, drawn outside the time; everything is compiled before."""
    from tools.benchmark import peer as peers

    device = "cuda" if peers.torch.cuda.is_available() else "cpu"
    made = peers.make_peer(jax.device_get(state.params), workload.data.inputs, workload.config)
    draw = jax.jit(lambda key: draw_batch(workload, key))
    keys = iter(jax.random.split(jax.random.key(1), 10_000))

    def step(kind: str) -> float:
        support, query = (peers.tensors(part, device) for part in jax.device_get(draw(next(keys))))
        if device == "cuda":
            peers.torch.cuda.synchronize()
        started = time.perf_counter()
        made.step(support, query, kind)
        return time.perf_counter() - started

    for kind in kinds:
        step(kind)
        step(kind)
    return step


def milliseconds(timing: Timing) -> dict[str, float]:
    """A timing for a report."""
    return {
        "median_ms": 1e3 * timing.median,
        "low_ms": 1e3 * timing.low,
        "high_ms": 1e3 * timing.high,
    }


def peak_memory() -> dict[str, float]:
    """MiB so far: of this process, and of the device where it counts its own."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        peak["device_mib"] = stats["peak_bytes_in_use"] / 2**20
    return peak


def kernels(split: bool) -> str:
    """What computes the sums over rows, neighbours and pairs."""
    if jax.default_backend() != "cpu" or split:
        return "plain forms"
    reason = native.load()
    return "kernels compiled for this CPU" if reason is None else f"plain forms, {reason}"


def device_name() -> str:
    """Kind of the devices, with the processor's name where it is one."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return kind
    import os
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else 'CPU'}, {os.cpu_count()} processors"
