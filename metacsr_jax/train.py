"""Training from a log to a work directory: protocol, audit, loop, checkpoints, choice of adaptation steps."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from metacsr_jax import parallel
from metacsr_jax import workdir as workdirs
from metacsr_jax.audit import audit
from metacsr_jax.checkpoint import Checkpoints, Progress, abstract_on
from metacsr_jax.checks import check
from metacsr_jax.compilation import cache_compilations
from metacsr_jax.config import Config
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import NonFiniteError
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.monitor import Monitor
from metacsr_jax.problem import Problem, make_problem
from metacsr_jax.protocol import Protocol, build_protocol, load_protocol, save_protocol
from metacsr_jax.sections import own_rates
from metacsr_jax.step import StepReport, TrainState
from metacsr_jax.validation import Validation, best_steps, make_validation


class FitResult(NamedTuple):
    """What training came to.

    Attributes:
        status: "finished", or "interrupted" by a signal (the same call resumes).
        step: steps taken.
        best_step: of the checkpoint that counts; -1 while none was validated.
        chosen_adapt_steps: by validation MAP; None unless finished.
        validation: of the best checkpoint, by adaptation steps.
        workdir: where everything is.
    """

    status: str
    step: int
    best_step: int
    chosen_adapt_steps: int | None
    validation: Validation
    workdir: Path


def fit(
    log: Interactions | Callable[[], Interactions],
    config: Config,
    workdir: str | os.PathLike,
    *,
    devices: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> FitResult:
    """Trains the model that `train.model` names, or resumes where a work directory stands.

    A run that is killed at any moment and started again ends in the bits of one that never was (same machine and devices).

    Args:
        log: the events, or a function that reads them; not asked for where the work directory already has its protocol.
        config: all settings.
        workdir: created if missing; one that belongs to another configuration is refused.
        devices: over which tasks are dealt out; 0: all there are. Any number ends in the same result up to rounding.
        progress: show a progress bar.
        say: receives lines for the user.

    Returns:
        How it ended.

    Raises:
        ConfigError, DataError, ProtocolError: see their classes.
        LeakError: the audit found a held-out event in reach of the model.
        NonFiniteError: the loss became NaN or infinite.
        WorkdirError: the work directory has another configuration, or is damaged.
    """
    check(config)
    cache_compilations()
    mesh = parallel.make_mesh(config, devices)
    if not parallel.writes():
        say, progress = _nothing, False
    with parallel.first_process_first():
        path = workdirs.open_workdir(workdir, config)
        manifest = workdirs.read_manifest(path)
        finished = manifest.get("status") == "finished"
        protocol = None if finished else prepare_protocol(log, config, path, say)
    if protocol is None:
        say(f"{path}: training is finished (step {manifest['step']}), nothing to do")
        return _finished(path, manifest)
    problem = make_problem(protocol, config)
    workdirs.update_manifest(
        path,
        **workdirs.provenance(),
        status="training",
        model=config.train.model,
        dataset=protocol.name,
        seed=config.train.seed,
        protocol=dict(protocol.manifest),
    )
    checkpoints = Checkpoints(path / "checkpoints", config.train.keep)
    try:
        return _train(problem, mesh, path, checkpoints, progress, say)
    finally:
        checkpoints.close()


def prepare_protocol(
    log: Interactions | Callable[[], Interactions],
    config: Config,
    path: Path,
    say: Callable[[str], None] = print,
) -> Protocol:
    """Loads a work directory's protocol, or builds, audits and saves it."""
    if (path / "protocol" / "manifest.json").exists():
        protocol = load_protocol(path / "protocol")
        audit(protocol)
        return protocol
    log = log() if callable(log) else log
    counted = ", ".join(f"{name} {count:,}" for name, count in log.counts.items() if count)
    say(f"log {log.name}: {log.num_events:,} events" + (f" ({counted})" if counted else ""))
    protocol = build_protocol(log, config.protocol)
    for line in audit(protocol, log=log).lines():
        say(line)
    save_protocol(protocol, path / "protocol")
    return protocol


def initial_state(problem: Problem) -> TrainState:
    """The state before the first step, from the training seed; traceable."""
    return problem.model.init(seed_keys(problem.config)[0])


def seed_keys(config: Config) -> tuple[jax.Array, jax.Array]:
    """Keys of the start and of the steps, from the training seed."""
    init_key, step_key = jax.random.split(jax.random.key(config.train.seed))
    return init_key, step_key


def _nothing(line: str) -> None:
    del line


def _train(problem, mesh, path, checkpoints, progress_bar, say) -> FitResult:
    config, train, model = problem.config, problem.config.train, problem.model
    seed_key = seed_keys(config)[1]
    validate = make_validation(problem)
    state, progress = _start(problem, mesh, path, checkpoints, say)
    data = parallel.everywhere(model.data, mesh)
    if mesh is not None:
        seed_key = parallel.everywhere(seed_key, mesh)
        say(f"{mesh.size} devices, {jax.process_count()} processes")
    total = model.total
    step = int(state.step)
    if not total and not checkpoints.steps():  # a model that only counts
        progress = _judge(progress, 0, validate(state.params, (0,)))
        checkpoints.save(state, progress)
    interrupts = Interrupts()
    with interrupts, Monitor(path, step, model, progress_bar) as monitor:
        # A run killed between its early stop and the end of `_finish` has nothing left to train.
        stopped = bool(train.patience) and progress.stale >= train.patience
        while step < total and not stopped:
            started = time.monotonic()
            with jax.transfer_guard("disallow"):
                phase = model.phase_of(step + 1)
                with parallel.on(mesh):
                    state, reports = phase.chunk(state, data, seed_key)
                reports = jax.device_get(reports)
                refuse_non_finite(reports, step, config.train.model)
                step += train.chunk
                seconds = time.monotonic() - started
                progress = progress._replace(seconds=progress.seconds + seconds)
                monitor.steps(step, phase, reports, seconds)
                if step % train.validate_every == 0 or step == total:
                    validation = validate(
                        parallel.here(state.params, mesh),
                        config.evaluation.adapt_steps if phase.final else (0,),
                    )
                    monitor.validation(step, validation)
                    if phase.final:
                        progress = _judge(progress, step, validation)
                    stopped = bool(train.patience) and progress.stale >= train.patience
            interrupted = parallel.any_process(interrupts.received)
            if (
                progress.best_step == step
                or step % train.save_every == 0
                or step == total
                or stopped
                or interrupted
            ):
                checkpoints.save(state, progress)
            if interrupted and step < total and not stopped:
                checkpoints.wait()
                say(f"interrupted at step {step}, saved; the same command resumes")
                return FitResult("interrupted", step, progress.best_step, None, {}, path)
        checkpoints.wait()
    return _finish(problem, mesh, validate, path, checkpoints, step, progress, say)


def _start(problem, mesh, path, checkpoints, say) -> tuple[TrainState, Progress]:
    """The newest checkpoint, or a fresh state."""
    saved = checkpoints.steps()
    abstract = jax.eval_shape(lambda: initial_state(problem))
    placed = parallel.shardings(abstract, mesh, problem.config.model.tables)
    if not saved:
        workdirs.truncate_records(path / "metrics.jsonl", 0)
        return jax.jit(lambda: initial_state(problem), out_shardings=placed)(), Progress()
    state = checkpoints.restore(saved[-1], abstract_on(abstract, placed))
    workdirs.truncate_records(path / "metrics.jsonl", saved[-1])
    say(f"resumed from step {saved[-1]}")
    return state, checkpoints.progress(saved[-1])


def restore_params(
    problem: Problem, checkpoints: Checkpoints, step: int, mesh: jax.sharding.Mesh | None = None
):
    """Parameters of a saved step on the default device, wherever they were written."""
    abstract = jax.eval_shape(lambda: initial_state(problem))
    placed = parallel.shardings(abstract, mesh, problem.config.model.tables)
    return parallel.here(checkpoints.restore(step, abstract_on(abstract, placed)).params, mesh)


def _judge(progress: Progress, step: int, validation: Validation) -> Progress:
    value = validation[best_steps(validation)]["map"]
    if value > progress.best_value:
        return progress._replace(best_step=step, best_value=value, stale=0)
    return progress._replace(stale=progress.stale + 1)


def refuse_non_finite(reports: StepReport, first_step: int, model: str) -> None:
    """Raises NonFiniteError where a loss or gradient of the steps after `first_step` is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(reports.loss) | ~np.isfinite(reports.gradient_norm))
    if bad.size:
        at = int(bad[0])
        raise NonFiniteError(
            f"step {first_step + at + 1}: loss {reports.loss[at]}, gradient norm {reports.gradient_norm[at]}, "
            f"parameter norm {reports.parameter_norm[at]}. The last checkpoint is from before; "
            f"lower one of {', '.join(own_rates(model))}, or clip gradients where the model can."
        )


def _finish(problem, mesh, validate, path, checkpoints, step, progress, say) -> FitResult:
    """Chooses the adaptation steps on validation users at the best checkpoint and closes the manifest."""
    params = restore_params(problem, checkpoints, progress.best_step, mesh)
    validation = validate(params, problem.config.evaluation.adapt_steps)
    manifest = workdirs.update_manifest(
        path,
        status="finished",
        step=step,
        best_step=progress.best_step,
        chosen_adapt_steps=best_steps(validation),
        validation={str(steps): metrics for steps, metrics in validation.items()},
        training_seconds=round(progress.seconds, 1),
    )
    result = _finished(path, manifest)
    say(
        f"finished at step {step}; best validation at step {result.best_step} "
        f"(MAP {progress.best_value:.4f}), {result.chosen_adapt_steps} adaptation steps chosen"
    )
    return result


def _finished(path: Path, manifest: dict) -> FitResult:
    validation = {int(steps): metrics for steps, metrics in manifest["validation"].items()}
    return FitResult(
        "finished",
        manifest["step"],
        manifest["best_step"],
        manifest["chosen_adapt_steps"],
        validation,
        path,
    )
