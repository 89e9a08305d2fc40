r"""Every table, figure and claim of the paper, made anew and put on one page.

    python -m experiments.reproduce --preset=movielens-1m --data=ml-1m.zip --workdir=runs/reproduce --seeds=0,1,2
    python -m experiments.reproduce --preset=movielens-1m --data=ml-1m.zip --workdir=runs/reproduce --only=table3,fig6 --budget=0.1

Plans the trainings that the tables and figures need, each once (`runs/NAME/seed-SEED`), looks inside them, and writes
`report/index.html` with csv, PNG and SVG beside it. The same command resumes at any point, and what is done is not done again.
`--small` makes everything in little from the embedded log, to see that it runs.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from absl import flags

from experiments import launch
from metacsr_jax.compare import model_names, refuse_others, run_all
from metacsr_jax.errors import ConfigError, MetaCSRError
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.reproduce.measure import measure_all
from metacsr_jax.reproduce.plan import METHODS, Options, check_exhibits, make_runs
from metacsr_jax.reproduce.report import finished_runs, with_searches, write_report
from metacsr_jax.reproduce.small import SMALL
from metacsr_jax.tune import read_tuned

_PRESET = flags.DEFINE_string("preset", "synthetic/tuned", "Log and variant, for all models.")
_DATA = flags.DEFINE_string("data", None, "The log, as for experiments.train.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written.", required=True)
_ONLY = flags.DEFINE_list("only", ["all"], "all, or some of the tables and figures.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Training seeds.")
_MODELS = flags.DEFINE_list("models", None, "Of Tables 3 and 4: all, or names of the registry.")
_SHARES = flags.DEFINE_list("shares", None, "Of the regular users, Figure 5; the whole is added.")
_LENGTHS = flags.DEFINE_list("lengths", None, "T of Figure 12.")
_METHODS = flags.DEFINE_list("methods", None, "Meta-learning algorithms: " + ", ".join(METHODS))
_ORDER_MODELS = flags.DEFINE_list("order_models", None, "Whose histories are cut and shuffled.")
_BUDGET = flags.DEFINE_float("budget", None, "Share of every training's length, in (0, 1].")
_TUNED = flags.DEFINE_string("tuned", None, "Directory written by experiments.tune.")
_SMALL = flags.DEFINE_bool("small", False, "Everything in little: sizes, models, lengths.")
_SET = flags.DEFINE_multi_string("set", [], "section.name=value for all models.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")


def main(_: list[str]) -> int | None:
    exhibits = check_exhibits(_ONLY.value)
    options = _options()
    workdir = Path(_WORKDIR.value)
    _need_pictures()
    runs = make_runs(options, exhibits, workdir)
    refuse_others(runs)
    with Interrupts() as interrupts:
        outcomes = run_all(runs, progress=_PROGRESS.value, say=_say)
        done, missing = finished_runs(outcomes)
        if not interrupts.received and not done:
            raise MetaCSRError(f"no run is finished: {'; '.join(missing.values())}")
        failed = None if interrupts.received else measure_all(options, exhibits, done, _say)
        if failed is None:
            print("interrupted; the same command goes on", file=sys.stderr)
            return launch.INTERRUPTED
        index, undone = write_report(options, exhibits, outcomes, failed, workdir / "report", _say)
    print(f"written: {index}")
    return 1 if missing or failed or undone else None


def _need_pictures() -> None:
    """Days of training should not end in a missing package."""
    for package in ("matplotlib", "sklearn"):
        if find_spec(package) is None:
            raise ConfigError(
                f'the page needs {package}, which is not installed: pip install "metacsr_jax[plots]"'
            )


def _options() -> Options:
    options = Options(
        _PRESET.value, seeds=tuple(dict.fromkeys(_numbers("seeds", _SEEDS.value, int)))
    )
    if _SMALL.value:
        options = SMALL._replace(preset=options.preset, seeds=options.seeds)
    given = {
        "models": _MODELS.value and tuple(model_names(_MODELS.value)),
        "shares": _SHARES.value and tuple(_numbers("shares", _SHARES.value, float)),
        "lengths": _LENGTHS.value and tuple(_numbers("lengths", _LENGTHS.value, int)),
        "methods": _METHODS.value and tuple(_METHODS.value),
        "order_models": _ORDER_MODELS.value and tuple(model_names(_ORDER_MODELS.value)),
        "budget": _BUDGET.value,
    }
    options = options._replace(**{name: of for name, of in given.items() if of is not None})
    data = [f"data.path={_DATA.value}"] if _DATA.value is not None else []
    assignments = (*options.assignments, *_SET.value, *data)
    options = options._replace(assignments=assignments)
    if _TUNED.value:
        options = with_searches(options, read_tuned(_TUNED.value, _PRESET.value))
    return options


def _numbers(flag: str, texts: list[str], kind: type) -> list:
    try:
        found = [kind(text) for text in texts]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise ConfigError(f"--{flag}={','.join(texts)}: expected numbers, 0 or more")
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    launch.run(main)
