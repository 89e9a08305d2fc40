"""What a benchmark measured, as Markdown and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metacsr_jax.report.style import open_figure
from metacsr_jax.report.table import layout

Result = dict[str, Any]


def markdown(results: Sequence[Result]) -> str:
    """The report; the first result's parts are shown in full."""
    first = results[0]
    lines = [
        "# Meta-batch throughput",
        "",
        f"{first['device']}, {first['devices']} device(s); JAX {first['jax']}; {first['kernels']}. "
        f"Medians of {first['dispatches']} dispatches of "
        f"{first['steps_per_dispatch']} outer steps, with 10 % and 90 % quantiles.",
        "",
        layout(
            [
                "tasks",
                "samples",
                "users",
                "items",
                "edges",
                "changed",
                "ms a step",
                "tasks/s",
                "samples/s",
                "compile s",
                "peak MiB",
            ],
            [_line(result) for result in results],
            "markdown",
        ),
    ]
    for result in results:
        if result["peers"]:
            rows = [
                [f"PyTorch {kind}", _times(of_peer), f"{of_peer['ratio']:.2f}"]
                for kind, of_peer in result["peers"].items()
            ]
            title = f"## PyTorch in the same run, {result['config']['tasks']['tasks']} tasks"
            lines += ["", title, "", layout(["peer", "ms a step", "times ours"], rows, "markdown")]
    for result in results:
        if "phases" in result:
            lines += ["", *_parts(result)]
    return "\n".join(lines) + "\n"


def picture(results: Sequence[Result], path: str | Path) -> None:
    """Tasks a second against the meta-batch and against the graph."""
    with open_figure(path, 1, 2, width=4.2, height=3.2) as (_, axes):
        panels = (
            ("tasks of a meta-batch", lambda r: r["config"]["tasks"]["tasks"]),
            ("edges of the graph", lambda r: r["sizes"]["edges"]),
        )
        for axis, (label, of) in zip(axes[0], panels, strict=True):
            fixed = [value for name, value in panels if name != label]
            line = sorted(
                (r for r in results if all(value(r) == value(results[0]) for value in fixed)),
                key=of,
            )
            x = [of(result) for result in line]
            tasks = [result["config"]["tasks"]["tasks"] for result in line]
            rate = {
                name: [1e3 * t / r[name] for t, r in zip(tasks, line, strict=True)]
                for name in ("outer_step_ms", "outer_step_low_ms", "outer_step_high_ms")
            }
            low, high = rate["outer_step_high_ms"], rate["outer_step_low_ms"]
            axis.fill_between(x, low, high, alpha=0.2, linewidth=0)
            axis.plot(x, rate["outer_step_ms"], marker="o")
            axis.set(xscale="log", xlabel=label, ylabel="tasks per second", ylim=(0, None))


def _line(result: Result) -> list[str]:
    tasks, sizes = result["config"]["tasks"], result["sizes"]
    samples = tasks["tasks"] * tasks["way"] * (tasks["support"] + tasks["query"])
    peak = result["memory"].get("device_mib", result["memory"]["process_mib"])
    return [
        str(tasks["tasks"]),
        f"{samples:,}",
        f"{sizes['users']:,}",
        f"{sizes['items']:,}",
        f"{sizes['edges']:,}",
        result["changed"] or "",
        f"{result['outer_step_ms']:.1f} [{result['outer_step_low_ms']:.1f}, {result['outer_step_high_ms']:.1f}]",
        f"{result['tasks_per_s']:.1f}",
        f"{result['samples_per_s']:,.0f}",
        f"{result['compile_s']:.1f}",
        f"{peak:,.0f}",
    ]


def _times(timing: dict[str, float]) -> str:
    return f"{timing['median_ms']:.1f} [{timing['low_ms']:.1f}, {timing['high_ms']:.1f}]"


def _parts(result: Result) -> list[str]:
    rows = [
        [name, _times(phase), f"{phase['gflop']:.2f}", f"{phase['gflops']:.1f}"]
        for name, phase in result["phases"].items()
    ]
    ceilings, work, served = result["ceilings"], result["work"], result["evaluation"]
    return [
        f"## Phases alone, {result['config']['tasks']['tasks']} tasks",
        "",
        layout(["phase", "ms", "GFLOP in products", "GFLOP/s"], rows, "markdown"),
        "",
        f"The device's large matrix product reaches {ceilings['gflops']:.0f} GFLOP/s in this run, its large "
        f"copy {ceilings['gbytes_per_s']:.1f} GB/s. A step has {work['gflop']:.1f} GFLOP and reaches {work['gflops']:.1f} GFLOP/s, "
        f"{100 * work['share_of_product']:.0f} % of the product (products, those of kernels too, and no elementwise work); "
        f"compiled in one part it moves {work['gbytes']:.2f} GB. "
        f"The larger of both bounds is {work['bound_ms']:.1f} ms, the step takes {work['times_bound']:.2f} times that.",
        "",
        f"Serving: {result['adaptations_per_s']:,.0f} user adaptations/s (one step, nine events, 101 candidates). "
        f"Evaluation of {served['cases']:,} users, five steps, whole catalogue: {served['batched_s']:.2f} s, {served['at_once']} a call; "
        f"a jitted call for each user {served['one_call_per_user_s']:.2f} s, {served['ratio']:.1f} times as long; the same with the "
        f"support read sample by sample, as training does, {served['one_call_per_user_by_samples_s']:.2f} s, "
        f"{served['ratio_by_samples']:.1f} times as long.",
    ]
