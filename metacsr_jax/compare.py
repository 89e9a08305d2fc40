"""Many models trained and evaluated in turn on the same cases; what is done is not done again."""

import functools
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metacsr_jax import presets, sections, settings
from metacsr_jax import workdir as workdirs
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError, MetaCSRError
from metacsr_jax.evaluate import evaluate
from metacsr_jax.evaluation.rows import ranks_path
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.log import load_log
from metacsr_jax.registry import MODELS
from metacsr_jax.report.comparison import WAYS, Finished
from metacsr_jax.train import fit
from metacsr_jax.validation import best_steps


class Run(NamedTuple):
    """One model trained with one seed, `<workdir>/<model>/seed-<seed>`."""

    model: str
    seed: int
    config: Config
    path: Path


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        run: which.
        status: "finished", "interrupted", or "failed".
        message: the error of a failed one.
    """

    run: Run
    status: str
    message: str = ""


def model_names(wanted: Sequence[str]) -> list[str]:
    """Names of models, "all" for every one there is.

    Raises:
        ConfigError: there is no such model.
    """
    if list(wanted) == ["all"]:
        return list(MODELS)
    for name in wanted:
        if name not in MODELS:
            raise ConfigError(
                f"unknown model {name!r}; expected all or some of {', '.join(MODELS)}"
            )
    return list(dict.fromkeys(wanted))


def make_runs(
    preset: str,
    models: Sequence[str],
    seeds: Sequence[int],
    workdir: str | os.PathLike,
    assignments: Sequence[str] = (),
    tuned: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Run]:
    """The runs of a comparison, seed by seed, so that one seed of everything comes first.

    Args:
        preset: of every model.
        models: of `model_names`.
        seeds: training seeds; the protocol's is a setting.
        workdir: where the runs lie.
        assignments: `section.name=value` for every model, so of a section that all read.
        tuned: settings of single models by name, as `metacsr_jax.tune` writes them.

    Raises:
        ConfigError: a setting is refused, or no seed is given.
    """
    if not seeds:
        raise ConfigError("no seeds: expected whole numbers, 0 or more")
    runs = []
    for seed in dict.fromkeys(seeds):
        for model in models:
            config = presets.preset(preset, model)
            config = settings.replace(config, (tuned or {}).get(model, {}))
            config = settings.override(config, [*assignments, f"train.seed={seed}"])
            runs.append(Run(model, seed, config, Path(workdir) / model / f"seed-{seed}"))
    return runs


def run_all(
    runs: Sequence[Run], *, progress: bool = True, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Trains and evaluates each run that is not finished yet.

    A model that fails is reported and the others go on; an interrupt ends the whole, and the same call resumes.

    Args:
        runs: of `make_runs`; they share the log and the protocol.
        progress: show progress bars.
        say: receives lines for the user.

    Returns:
        An outcome for every run reached.
    """
    outcomes: list[Outcome] = []
    log = functools.cache(lambda: load_log(runs[0].config))
    for place, run in enumerate(runs, 1):
        title = f"[{place}/{len(runs)}] {run.model}, seed {run.seed}"
        try:
            status = _run(run, log, title, progress, say)
            outcomes.append(Outcome(run, status))
        except MetaCSRError as error:
            say(f"{title}: failed: {error}")
            outcomes.append(Outcome(run, "failed", str(error)))
            status = "failed"
        jax.clear_caches()  # the next model shares no program with this one
        gc.collect()
        if status == "interrupted":
            break
    return outcomes


def wanted_steps(manifest: Mapping[str, Any], adapts: bool) -> tuple[int, ...]:
    """Adaptation steps that a comparison shows: none, the best of one or more, so also the chosen, all by validation MAP."""
    validation = {int(steps): metrics for steps, metrics in manifest["validation"].items()}
    more = {steps: metrics for steps, metrics in validation.items() if steps}
    return (0, best_steps(more)) if adapts and more else (0,)


def finished(outcomes: Sequence[Outcome]) -> list[Finished]:
    """The finished runs as the report reads them."""
    found = []
    for outcome in outcomes:
        if outcome.status != "finished":
            continue
        run, manifest = outcome.run, workdirs.read_manifest(outcome.run.path)
        steps = wanted_steps(manifest, run.model not in sections.COUNTING)
        found.append(
            Finished(
                run.model,
                run.seed,
                run.path,
                manifest["dataset"],
                dict(zip(WAYS, steps, strict=False)),
                "adapted" if manifest["chosen_adapt_steps"] else "none",
                manifest.get("train_wall_seconds", 0.0),
                manifest.get("evaluate_wall_seconds", 0.0),
            )
        )
    return found


def _run(run: Run, log, title, progress, say) -> str:
    started = time.monotonic()
    done = workdirs.read_manifest(run.path).get("status") == "finished"
    if not done:
        say(f"{title}: training")
        result = fit(log, run.config, run.path, progress=progress, say=lambda line: None)
        _add_seconds(run.path, "train_wall_seconds", time.monotonic() - started)
        if result.status == "interrupted":
            say(f"{title}: interrupted at step {result.step}; the same command resumes")
            return "interrupted"
    else:
        workdirs.open_workdir(run.path, run.config)  # refuses another configuration
    _forget_other_checkpoints(run.path)
    with Interrupts() as interrupts:
        for scenario in run.config.evaluation.scenarios:
            _evaluate(run, scenario, f"{title}: {scenario}", say)
            if interrupts.received:
                say(f"{title}: interrupted; the same command resumes")
                return "interrupted"
    manifest = workdirs.read_manifest(run.path)
    chosen = manifest["chosen_adapt_steps"]
    value = manifest["validation"][str(chosen)]["map"]
    minutes = [manifest.get(f"{part}_wall_seconds", 0.0) / 60 for part in ("train", "evaluate")]
    say(
        f"{title}: done, validation MAP {value:.4f} at {chosen} steps; "
        f"{minutes[0]:.1f} min training, {minutes[1]:.1f} min evaluating"
    )
    return "finished"


def _evaluate(run: Run, scenario: str, title: str, say) -> None:
    """Ranks the cases at the wanted steps that have no ranks of the best checkpoint yet."""
    manifest = workdirs.read_manifest(run.path)
    kinds = (f"sampled-{run.config.protocol.num_negatives}", "full")
    missing = [
        steps
        for steps in wanted_steps(manifest, run.model not in sections.COUNTING)
        if not all(ranks_path(run.path, scenario, kind, steps).exists() for kind in kinds)
    ]
    if not missing:
        return
    say(f"{title}, {' and '.join(map(str, missing))} adaptation steps")
    started = time.monotonic()
    evaluate(run.path, scenarios=(scenario,), adapt_steps=missing, adapt_per=("user",))
    _add_seconds(run.path, "evaluate_wall_seconds", time.monotonic() - started)


def _forget_other_checkpoints(path: Path) -> None:
    """Removes ranks of a checkpoint that is not the best one: somebody evaluated another by hand."""
    manifest = workdirs.read_manifest(path)
    if manifest.get("evaluated_step", manifest["best_step"]) != manifest["best_step"]:
        for file in (path / "evaluation").glob("ranks-*.npz"):
            file.unlink()
        workdirs.update_manifest(path, evaluated_step=manifest["best_step"])


def _add_seconds(path: Path, name: str, seconds: float) -> None:
    """Adds to a wall time that survives interruptions."""
    before = workdirs.read_manifest(path).get(name, 0.0)
    workdirs.update_manifest(path, **{name: round(before + seconds, 1)})
