"""Many models trained and evaluated in turn on the same cases; what is done is not done again."""

import functools
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metacsr_jax import presets, sections, settings
from metacsr_jax import workdir as workdirs
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError, MetaCSRError, WorkdirError
from metacsr_jax.evaluate import evaluate
from metacsr_jax.evaluation.rows import ranks_path, read_rows
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.log import load_log
from metacsr_jax.registry import MODELS
from metacsr_jax.report.comparison import WAYS, Finished
from metacsr_jax.train import fit
from metacsr_jax.validation import best_steps


class Run(NamedTuple):
    """One model trained with one seed, `<workdir>/<name>/seed-<seed>`.

    Attributes:
        model: of the registry.
        seed: of training.
        config: all settings.
        path: of its work directory.
        variant: name among several runs of one model; empty: the model's.
    """

    model: str
    seed: int
    config: Config
    path: Path
    variant: str = ""

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.variant or self.model


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        run: which.
        status: "finished", "interrupted", "failed", or "not reached".
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


def configuration(
    preset: str, model: str, assignments: Sequence[str] = (), tuned: Mapping[str, Any] | None = None
) -> Config:
    """Settings of a model in a comparison: validation chooses among as many adaptation steps for every model.

    Args:
        preset: `<log>/<variant>`.
        model: of the registry.
        assignments: `section.name=value`, the last word.
        tuned: settings by dotted name that a search has found.

    Raises:
        ConfigError: a setting is refused.
    """
    config = presets.preset(preset, model)
    if model not in sections.COUNTING:
        config = settings.replace(config, presets.ADAPT_STEPS)
    return settings.override(settings.replace(config, tuned or {}), assignments)


def refuse_others(runs: Sequence[Run]) -> None:
    """Refuses directories that hold runs of other settings, before anything is trained.

    Raises:
        WorkdirError: names the first, and how it differs.
    """
    for run in runs:
        if (run.path / "checkpoints").exists():
            workdirs.open_workdir(run.path, run.config)


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
            own = (tuned or {}).get(model, {})
            config = configuration(preset, model, [*assignments, f"train.seed={seed}"], own)
            runs.append(Run(model, seed, config, Path(workdir) / model / f"seed-{seed}"))
    return runs


def run_all(
    runs: Sequence[Run], *, progress: bool = True, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Trains and evaluates each run that is not finished yet.

    A model that fails is reported and the others go on; an interrupt ends the whole, and the same call resumes. Runs that an interrupt
    kept from being reached count as finished where an earlier call finished them.

    Args:
        runs: of `make_runs`; they share the log and the protocol.
        progress: show progress bars.
        say: receives lines for the user.

    Returns:
        An outcome for every run.
    """
    outcomes: list[Outcome] = []
    log = functools.cache(lambda: load_log(runs[0].config))
    with Interrupts() as interrupts:
        for place, run in enumerate(runs, 1):
            title = f"[{place}/{len(runs)}] {run.name}, seed {run.seed}"
            try:
                outcomes.append(Outcome(run, _run(run, log, title, progress, say, interrupts)))
            except (
                Exception
            ) as error:  # out of memory, a singular matrix: the other models are none the worse
                named = "" if isinstance(error, MetaCSRError) else f"{type(error).__name__}: "
                say(f"{title}: failed: {named}{error}")
                outcomes.append(Outcome(run, "failed", f"{named}{error}"))
            jax.clear_caches()  # the next model shares no program with this one
            gc.collect()
            if interrupts.received:
                break
            if left := time_left(runs[:place], runs[place:]):
                say(f"{title}: about {left / 60:.0f} min left")
    for run in runs[len(outcomes) :]:
        outcomes.append(Outcome(run, "finished" if _is_done(run) else "not reached"))
    return outcomes


def time_left(done: Sequence[Run], others: Sequence[Run]) -> float:
    """Seconds that the other runs may take: as long as one of the same model took, else as the mean run; 0 where nothing is known.

    Args:
        done: runs whose manifests say what they took.
        others: runs of which the finished ones count nothing.
    """
    taken: dict[str, list[float]] = {}
    for run in done:
        manifest = workdirs.read_manifest(run.path)
        seconds = [manifest.get(f"{part}_wall_seconds", 0.0) for part in ("train", "evaluate")]
        taken.setdefault(run.model, []).append(sum(seconds))
    everything = [seconds for of_model in taken.values() for seconds in of_model]
    return sum(
        float(np.mean(taken.get(run.model, everything))) for run in others if not _is_done(run)
    )


def wanted_steps(manifest: Mapping[str, Any], adapts: bool) -> tuple[int, ...]:
    """Adaptation steps that a comparison shows: none, the best of one or more, so also the chosen, all by validation MAP.

    A number of steps at which a test user's adaptation diverged, as an evaluation noted, is not shown.
    """
    validation = {int(steps): metrics for steps, metrics in manifest["validation"].items()}
    diverged = manifest.get("diverged_steps", [])
    more = {
        steps: metrics for steps, metrics in validation.items() if steps and steps not in diverged
    }
    return (0, best_steps(more)) if adapts and more else (0,)


def finished(outcomes: Sequence[Outcome]) -> list[Finished]:
    """The finished runs as the report reads them.

    Raises:
        WorkdirError: two of them are not of one protocol.
    """
    found, protocols = [], {}
    for outcome in outcomes:
        if outcome.status != "finished":
            continue
        run, manifest = outcome.run, workdirs.read_manifest(outcome.run.path)
        protocols.setdefault(manifest["protocol"]["sha256_all"], run.path)
        if len(protocols) > 1:
            one, other = protocols.values()
            raise WorkdirError(
                f"{one} and {other}: trained on two protocols; expected one log and one set of held-out events and negatives"
            )
        steps = wanted_steps(manifest, run.model not in sections.COUNTING)
        found.append(
            Finished(
                run.name,
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


def _run(run: Run, log, title, progress, say, interrupts) -> str:
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
    scenarios = run.config.evaluation.scenarios
    while missing := {name: steps for name in scenarios if (steps := _missing(run, name))}:
        for scenario, steps in missing.items():
            if interrupts.received:
                say(f"{title}: interrupted; the same command resumes")
                return "interrupted"
            _evaluate(run, scenario, steps, f"{title}: {scenario}", say)
    manifest = workdirs.read_manifest(run.path)
    chosen = manifest["chosen_adapt_steps"]
    value = manifest["validation"][str(chosen)]["map"]
    minutes = [manifest.get(f"{part}_wall_seconds", 0.0) / 60 for part in ("train", "evaluate")]
    say(
        f"{title}: done, validation MAP {value:.4f} at {chosen} steps; "
        f"{minutes[0]:.1f} min training, {minutes[1]:.1f} min evaluating"
    )
    return "finished"


def _is_done(run: Run) -> bool:
    """Whether an earlier call finished this very run."""
    manifest = workdirs.read_manifest(run.path)
    if manifest.get("status") != "finished":
        return False
    same = not settings.differences(workdirs.read_config(run.path), run.config)
    return same and not any(_missing(run, name) for name in run.config.evaluation.scenarios)


def _missing(run: Run, scenario: str) -> list[int]:
    """Numbers of adaptation steps that have no ranks or rows of the best checkpoint."""
    manifest = workdirs.read_manifest(run.path)
    wanted = wanted_steps(manifest, run.model not in sections.COUNTING)
    if manifest.get("evaluated_step") != manifest["best_step"]:
        return list(wanted)
    kinds = (f"sampled-{run.config.protocol.num_negatives}", "full")
    there = (run.path / "evaluation" / "rows.json").exists()
    rows = {
        (row["candidates"], row["adapt_steps"])
        for row in (read_rows(run.path) if there else ())
        if (row["model"], row["scenario"]) == (run.model, scenario)
    }
    return [
        steps
        for steps in wanted
        if not all(
            (kind, steps) in rows and ranks_path(run.path, scenario, kind, steps).exists()
            for kind in kinds
        )
    ]


def _evaluate(run: Run, scenario: str, missing: Sequence[int], title: str, say) -> None:
    """Ranks the cases of a scenario; notes at how many steps somebody's adaptation diverged."""
    say(f"{title}, {' and '.join(map(str, missing))} adaptation steps")
    started = time.monotonic()
    evaluate(
        run.path,
        scenarios=(scenario,),
        adapt_steps=missing,
        adapt_per=("user",),
        say=lambda line: say(f"{title}: {line}"),
    )
    _add_seconds(run.path, "evaluate_wall_seconds", time.monotonic() - started)
    diverged = set(missing) & set(_missing(run, scenario))
    if diverged:
        before = workdirs.read_manifest(run.path).get("diverged_steps", [])
        workdirs.update_manifest(run.path, diverged_steps=sorted({*before, *diverged}))


def _add_seconds(path: Path, name: str, seconds: float) -> None:
    """Adds to a wall time that survives interruptions."""
    before = workdirs.read_manifest(path).get(name, 0.0)
    workdirs.update_manifest(path, **{name: round(before + seconds, 1)})
