r"""Measures the outer step of meta-training: throughput, phases, memory, and PyTorch's in the same run.

    python -m tools.benchmark_meta_batch --peer=torch --json=report.json --markdown=report.md
    python -m tools.benchmark_meta_batch --tasks=1,4,16,64,256 --picture=tasks.png

The defaults are the standard step: 16 tasks of 15 users with 5 support and 15 query samples, ten events, 128 features, 100 negatives,
second order, the graph of a log of MovieLens-1M's size. Flags that take lists are swept; every combination runs in a process of its
own. The step that is timed is the training step: fresh tasks and negatives each time, float32 unless --precision says otherwise.
"""

import itertools
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from metacsr_jax import presets, settings
from metacsr_jax.checks import check
from metacsr_jax.errors import ConfigError
from tools.benchmark.measure import Plan, measure
from tools.benchmark.report import markdown, picture
from tools.benchmark.workload import Sizes

# flag: setting; with those of `Sizes` they are the flags that take lists
SETTINGS = {
    "tasks": "tasks.tasks",
    "way": "tasks.way",
    "support": "tasks.support",
    "query": "tasks.query",
    "length": "model.max_length",
    "width": "model.dim",
    "hops": "model.hops",
    "negatives": "loss.negatives",
    "inner_steps": "meta.inner_steps",
    "meta": "meta.method",
    "precision": "train.precision",
    "samples_at_once": "meta.samples_at_once",
}
flags.DEFINE_list("tasks", ["16"], "Tasks of a meta-batch.")
flags.DEFINE_list("way", ["15"], "Users of a task.")
flags.DEFINE_list("support", ["5"], "Support samples of a user.")
flags.DEFINE_list("query", ["15"], "Query samples of a user.")
flags.DEFINE_list("length", ["10"], "Events of context, at most.")
flags.DEFINE_list("width", ["128"], "Features.")
flags.DEFINE_list("hops", ["1"], "Hops of diffusion.")
flags.DEFINE_list("negatives", ["100"], "Negatives of a sample.")
flags.DEFINE_list("inner_steps", ["1"], "Inner steps.")
flags.DEFINE_list("meta", ["maml"], "Meta-learning algorithm.")
flags.DEFINE_list("precision", ["float32"], "Of products: float32, tf32 or bfloat16.")
flags.DEFINE_list("samples_at_once", ["0"], "Samples differentiated together; 0: by backend.")
flags.DEFINE_list("users", ["4832"], "Users of the log.")
flags.DEFINE_list("items", ["3533"], "Catalogue.")
flags.DEFINE_list("edges", ["516000"], "Events of the log; its distinct pairs are the edges.")
_PRESET = flags.DEFINE_string("preset", "movielens-1m/paper", "What the flags change.")
_SET = flags.DEFINE_multi_string("set", [], "section.name=value, any other setting.")
_DEVICES = flags.DEFINE_integer("devices", 1, "Deal tasks out to so many devices; 0: all.")
_CHUNK = flags.DEFINE_integer("chunk", 5, "Outer steps a dispatch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Dispatches that are timed.", lower_bound=1)
_PEER = flags.DEFINE_enum("peer", None, ["torch"], "Run the PyTorch peer in turns with ours.")
_KINDS = flags.DEFINE_list("peer_kinds", ["loop", "vmap", "compile"], "Which of its forms.")
_PHASES = flags.DEFINE_bool("phases", True, "Time the phases alone, and serving, of the first.")
_JSON = flags.DEFINE_string("json", None, "Write all figures there; outer_step_ms is the median.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the report there too.")
_PICTURE = flags.DEFINE_string("picture", None, "Draw throughput there (png, svg).")


def plans() -> list[tuple[Plan, str]]:
    """Every combination of the lists, with what it changes of the first."""
    given = {name: getattr(flags.FLAGS, name) for name in (*SETTINGS, *Sizes._fields)}
    made = []
    for values in itertools.product(*given.values()):
        chosen = dict(zip(given, values, strict=True))
        assignments = [f"{SETTINGS[name]}={chosen[name]}" for name in SETTINGS]
        steps = [
            f"train.{name}={_CHUNK.value}" for name in ("chunk", "validate_every", "save_every")
        ]
        steps.append(f"train.steps={100 * _CHUNK.value}")
        config = settings.override(
            presets.preset(_PRESET.value), [*assignments, *steps, *_SET.value]
        )
        check(config)
        try:
            sizes = Sizes(*(int(float(chosen[name])) for name in Sizes._fields))
        except ValueError as error:
            raise ConfigError(f"--users, --items, --edges: {error}") from error
        if sizes.users < 1 or sizes.items < 3 or sizes.edges < 2 * sizes.users:
            raise ConfigError(f"{sizes}: expected three items and two events a user, or more")
        changed = ", ".join(
            f"{name}={chosen[name]}"
            for name in SETTINGS
            if len(given[name]) > 1 and name not in ("tasks",)
        )
        peers = tuple(_KINDS.value) if _PEER.value else ()
        plan = Plan(config, sizes, _DEVICES.value, _ROUNDS.value, peers, _PHASES.value and not made)
        made.append((plan, changed))
    return made


def run(plan: Plan) -> dict[str, Any]:
    """`measure` in a fresh process, so that memory and compiled programs are its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, plan).result()


def main(_: list[str]) -> None:
    import jax

    results = []
    for number, (plan, changed) in enumerate(todo := plans(), 1):
        tasks = plan.config.tasks.tasks
        print(f"[{number}/{len(todo)}] {tasks} tasks {changed}", file=sys.stderr, flush=True)
        results.append(run(plan) | {"changed": changed, "jax": jax.__version__})
    text = markdown(results)
    print(text)
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text(text, encoding="utf-8")
    if _JSON.value:
        content = results[0] | ({"sweep": results} if len(results) > 1 else {})
        Path(_JSON.value).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if _PICTURE.value:
        picture(results, _PICTURE.value)


if __name__ == "__main__":
    launch.run(main)
