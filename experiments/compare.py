r"""Trains and evaluates many models on the same cases and writes the tables that settle who is ahead.

    python -m experiments.compare --preset=movielens-1m --data=ml-1m.zip --models=all --seeds=0,1,2 --workdir=runs/compare

Each model and seed has a work directory of its own, `WORKDIR/MODEL/seed-SEED`; the same command resumes, and what is done is not done
again. Ends with comparison.md, .csv, .json, tests.csv and the curves of the paper's Figures 3 and 4.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import launch
from metacsr_jax.compare import finished, make_runs, model_names, run_all
from metacsr_jax.errors import ConfigError, MetaCSRError
from metacsr_jax.report.settle import settle
from metacsr_jax.tune import read_tuned, searched

_PRESET = flags.DEFINE_string("preset", "synthetic/tuned", "Log and variant, for all models.")
_DATA = flags.DEFINE_string("data", None, "The log, as for experiments.train.")
_MODELS = flags.DEFINE_list("models", ["all"], "all, or names of metacsr_jax/registry.py.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Training seeds.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written.", required=True)
_TUNED = flags.DEFINE_string(
    "tuned", None, "Directory of MODEL.json files with settings, written by experiments.tune."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "section.name=value for all models: data, protocol, train, evaluation, model.dim."
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")


def main(_: list[str]) -> int | None:
    if not all(text.strip().isdigit() for text in _SEEDS.value):
        raise ConfigError(f"--seeds={','.join(_SEEDS.value)}: expected whole numbers, 0 or more")
    assignments = list(_SET.value)
    if _DATA.value is not None:
        assignments.append(f"data.path={_DATA.value}")
    models = model_names(_MODELS.value)
    tuned = read_tuned(_TUNED.value, _PRESET.value) if _TUNED.value else {}
    seeds = [int(text) for text in _SEEDS.value]
    chosen = {model: of_model["settings"] for model, of_model in tuned.items()}
    runs = make_runs(_PRESET.value, models, seeds, _WORKDIR.value, assignments, chosen)
    outcomes = run_all(runs, progress=_PROGRESS.value, say=_say)
    done = finished(outcomes)
    missing = [
        f"- {outcome.run.model}, seed {outcome.run.seed}: {outcome.status} {outcome.message}"
        for outcome in outcomes
        if outcome.status != "finished"
    ]
    if not done:
        raise MetaCSRError("no run is finished, so there is nothing to compare")
    notes = ["**Missing:**", "\n".join(missing)] if missing else []
    if tuned:
        notes.append(searched(tuned, models))
    config = runs[0].config
    files = settle(
        done,
        Path(_WORKDIR.value),
        config.evaluation.scenarios,
        config.protocol.num_negatives,
        notes,
    )
    print((Path(_WORKDIR.value) / "comparison.md").read_text(encoding="utf-8"))
    print("written:", *files, sep="\n  ")
    if any(outcome.status in ("interrupted", "not reached") for outcome in outcomes):
        return launch.INTERRUPTED
    return 1 if missing else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    launch.run(main)
