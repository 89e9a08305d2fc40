r"""Searches a model's settings for a given time, on validation users only.

    python -m experiments.tune --model=bpr --preset=movielens-1m --data=ml-1m.zip --minutes=10 --workdir=runs/tune

The same command resumes an interrupted search; more minutes continue a finished one. WORKDIR/MODEL.json gets the winning settings, which
`experiments.train --settings=FILE` and `experiments.compare --tuned=WORKDIR` take, and WORKDIR/MODEL/trials.md the trials.
"""

from absl import flags

from experiments import launch
from metacsr_jax import presets, settings
from metacsr_jax.errors import MetaCSRError
from metacsr_jax.log import load_log
from metacsr_jax.tune import tune

_PRESET = flags.DEFINE_string("preset", "synthetic/tuned", "Where the search starts.")
_MODEL = flags.DEFINE_string("model", "metacsr", "metacsr or a rival, see metacsr_jax/registry.py.")
_DATA = flags.DEFINE_string("data", None, "The log, as for experiments.train.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written.", required=True)
_MINUTES = flags.DEFINE_float("minutes", 10.0, "Wall time of all trials together.")
_TRIAL_MINUTES = flags.DEFINE_float("trial_minutes", None, "Longest trial; default: a fifth.")
_SEED = flags.DEFINE_integer("seed", None, "Seed of training and of the search.")
_SET = flags.DEFINE_multi_string("set", [], "section.name=value, any setting.")


def main(_: list[str]) -> int | None:
    assignments = list(_SET.value)
    if _DATA.value is not None:
        assignments.append(f"data.path={_DATA.value}")
    if _SEED.value is not None:
        assignments.append(f"train.seed={_SEED.value}")
    config = settings.override(presets.preset(_PRESET.value, _MODEL.value), assignments)
    found = tune(
        lambda: load_log(config),
        config,
        _MINUTES.value,
        _WORKDIR.value,
        trial_minutes=_TRIAL_MINUTES.value,
        say=lambda line: print(line, flush=True),
    )
    if found.interrupted:
        print("interrupted; the same command goes on with the next trial")
        return launch.INTERRUPTED
    if found.value != found.value:
        raise MetaCSRError(f"none of {found.trials} trials came to a validation")
    print(f"best of {found.trials} trials ({found.seconds / 60:.1f} min): {found.value:.4f}")
    for name, value in found.settings.items():
        print(f"  {name}={value}")
    print(f"settings: {found.path}\ntrials: {found.path.with_suffix('')}/trials.md")
    return None


if __name__ == "__main__":
    launch.run(main)
