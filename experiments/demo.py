r"""The main job in small: train on the embedded log, evaluate both scenarios, recommend to a new history, draw pictures.

    python -m experiments.demo --workdir=runs/demo

The log is generated: 1,500 users move through item series that all share, and each turns inside a series by a rule of his own, which
only his own events tell. Under 3 minutes on two cores. Expected, cold users, seed 0: see "What `make demo` shows" in README.md.
"""

import shutil
from pathlib import Path

from absl import flags

from experiments import launch
from metacsr_jax import presets, settings
from metacsr_jax.errors import WorkdirError
from metacsr_jax.evaluate import evaluate, evaluate_baselines
from metacsr_jax.log import load_log
from metacsr_jax.recommend import load
from metacsr_jax.report.table import metric_table
from metacsr_jax.report.workdir import draw_workdir
from metacsr_jax.train import fit
from metacsr_jax.workdir import read_config

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/demo", "Where everything is written; what an earlier demo left is removed."
)
_SMALL = flags.DEFINE_bool("small", False, "A few steps only, to see that everything runs.")
_SET = flags.DEFINE_multi_string("set", [], "section.name=value, any setting.")

SMALL = ("train.pretrain_steps=40", "train.steps=40", "train.validate_every=20")
NEW_HISTORY = 3  # events of the new history that is served


def main(_: list[str]) -> int | None:
    assignments = [*(SMALL if _SMALL.value else ()), *_SET.value]
    config = settings.override(presets.preset("synthetic/tuned"), assignments)
    workdir = Path(_WORKDIR.value)
    if (workdir / "config.json").exists():
        earlier = read_config(workdir)
        if earlier.preset != config.preset or earlier.data.path:
            raise WorkdirError(f"{workdir}: holds another run, not a demo; give another --workdir")
        shutil.rmtree(workdir)
    log = load_log(config)
    print(
        f"embedded log: {log.num_events:,} events of {log.num_users:,} users and {log.num_items:,} items"
    )
    result = fit(log, config, workdir)
    if result.status != "finished":
        return launch.INTERRUPTED
    steps = sorted({0, 1, 5, result.chosen_adapt_steps})
    rows = evaluate(workdir, adapt_steps=steps)
    rows += evaluate_baselines(workdir, ("popular", "markov", "random"))
    history = log.item_ids[:: log.num_items // NEW_HISTORY][:NEW_HISTORY].tolist()
    items, scores = load(workdir).recommend([history], k=5, adapt_steps=result.chosen_adapt_steps)
    pictures = draw_workdir(workdir)

    print(f"\nA new user did {', '.join(map(str, history))}. Next, with logits:")
    for item, score in zip(items[0], scores[0], strict=True):
        print(f"  {item:>6}  {score:8.3f}")
    print()
    print(metric_table([row for row in rows if row["candidates"] != "full"]))
    print(f"\nsteps chosen on validation users: {result.chosen_adapt_steps}\nwritten:")
    written = [
        workdir / name
        for name in ("manifest.json", "metrics.jsonl", "evaluation/rows.csv", "checkpoints")
    ]
    for path in (*written, *pictures):
        print(f"  {path}")
    return None


if __name__ == "__main__":
    launch.run(main)
