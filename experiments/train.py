r"""Trains metaCSR, or a rival of it, on a log and keeps everything in a work directory.

    python -m experiments.train --preset=movielens-1m/tuned --data=ml-1m.zip --workdir=runs/ml-1m

The same command resumes an interrupted run. `--set section.name=value` changes any setting of `metacsr_jax/config.py`, as often as wanted;
`--dry_run` shows the merged configuration, the sizes and an estimate of memory without training.
"""

from absl import flags

from experiments import launch
from metacsr_jax import parallel, presets, settings
from metacsr_jax.config import Config
from metacsr_jax.log import load_log
from metacsr_jax.plan import plan
from metacsr_jax.train import fit
from metacsr_jax.tune import read_settings

_PRESET = flags.DEFINE_string(
    "preset", "synthetic/tuned", "Log and variant, see metacsr_jax/presets.py."
)
_MODEL = flags.DEFINE_string("model", "metacsr", "metacsr or a rival, see metacsr_jax/registry.py.")
_DATA = flags.DEFINE_string(
    "data", None, "The log: a file, a directory, or an archive as published."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is written; needed unless --dry_run."
)
_SEED = flags.DEFINE_integer("seed", None, "Training seed; the protocol's is --set protocol.seed.")
_SET = flags.DEFINE_multi_string("set", [], "section.name=value, any setting.")
_SETTINGS = flags.DEFINE_string(
    "settings", None, "MODEL.json with settings, written by experiments.tune; --set comes after."
)
_SKIP = flags.DEFINE_bool(
    "skip_malformed", False, "Count malformed lines instead of stopping at the first."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show what would be done.")
_DEVICES = flags.DEFINE_integer("devices", 0, "Deal tasks out to so many devices; 0: all.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where several processes train together."
)
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes; all share --workdir.")
_PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Number of this process, from 0.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show a progress bar.")


def config_from_flags() -> Config:
    """The preset with what the flags change."""
    assignments = list(_SET.value)
    if _DATA.value is not None:
        assignments.append(f"data.path={_DATA.value}")
    if _SEED.value is not None:
        assignments.append(f"train.seed={_SEED.value}")
    if _SKIP.value:
        assignments.append("data.skip_malformed=true")
    config = presets.preset(_PRESET.value, _MODEL.value)
    if _SETTINGS.value is not None:
        config = settings.replace(config, read_settings(_SETTINGS.value))
    return settings.override(config, assignments)


def main(_: list[str]) -> int | None:
    config = config_from_flags()
    if _DRY_RUN.value:
        print(plan(load_log(config), config))
        return None
    if not _WORKDIR.value:
        raise launch.MetaCSRError("--workdir is missing: the directory to write to")
    if _COORDINATOR.value is not None:
        parallel.connect(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
    elif _PROCESSES.value != 1:
        raise launch.MetaCSRError(f"--processes={_PROCESSES.value}: needs --coordinator=HOST:PORT")
    result = fit(
        lambda: load_log(config),
        config,
        _WORKDIR.value,
        devices=_DEVICES.value,
        progress=_PROGRESS.value,
    )
    return launch.INTERRUPTED if result.status == "interrupted" else None


if __name__ == "__main__":
    launch.run(main)
