"""Search for settings in a time that is the same for every model, on validation users only.

A trial draws settings (TPE of optuna), trains, and is worth the best validation MAP on its way, at the best number of adaptation
steps. The first trial is the preset itself. Where the whole training would not fit into a trial's time, all trials, the preset's too,
train for fewer steps, schedules and all. A trial ends with its training, when a trial like it was doing better (median rule), or
before the dispatch that would end after its time. New users and warm targets are not looked at.
"""

import csv
import difflib
import gc
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metacsr_jax import presets, settings
from metacsr_jax.compilation import cache_compilations
from metacsr_jax.config import Config
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import ConfigError, NonFiniteError, WorkdirError
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.pace import Pace, measure_pace
from metacsr_jax.problem import Problem, make_problem
from metacsr_jax.protocol import Protocol
from metacsr_jax.report.table import layout
from metacsr_jax.search import SPACES, Range, Space
from metacsr_jax.train import prepare_protocol, refuse_non_finite, seed_keys
from metacsr_jax.validation import best_steps, make_validation
from metacsr_jax.workdir import read_json, write_json

STARTUP = 4  # trials before the median rule applies and draws follow from those before
REFUSED = 10  # failed trials in a row that end a search
INTERRUPTED = "interrupted"


class Tuned(NamedTuple):
    """How a search stands.

    Attributes:
        settings: of the best trial, by dotted name.
        value: its validation MAP.
        trials: how many there are, the stopped and failed ones included.
        seconds: they took.
        path: of the file with the settings.
        interrupted: by a signal; the same call resumes.
    """

    settings: dict[str, Any]
    value: float
    trials: int
    seconds: float
    path: Path
    interrupted: bool


def tune(
    log: Interactions | Callable[[], Interactions],
    config: Config,
    minutes: float,
    workdir: str | os.PathLike,
    *,
    trial_minutes: float | None = None,
    space: Space | None = None,
    say: Callable[[str], None] = print,
) -> Tuned:
    """Searches until the time is over; what earlier calls spent counts.

    Args:
        log: the events, or a function that reads them.
        config: where the search starts; settings that are not searched stay as they are.
        minutes: wall time of all trials, compiling and validating included. Nothing is begun that by what was measured would end
            later; the first dispatch of a trial and its validation are not cut.
        workdir: `MODEL.json` gets the winning settings, `MODEL/trials.md` and `trials.csv` the trials.
        trial_minutes: longest a trial may take; None: a fifth of `minutes`.
        space: what to search; None: `search.SPACES`.
        say: receives lines for the user.

    Returns:
        Where the search stands.

    Raises:
        ConfigError: `minutes` is not positive, or optuna, the `tune` extra, is missing.
        WorkdirError: the work directory's search started from another configuration.
    """
    if not minutes > 0:
        raise ConfigError(f"minutes={minutes}: expected more than 0")
    model = config.train.model
    space = SPACES[model] if space is None else space
    cache_compilations()
    directory = Path(workdir).absolute() / model
    directory.mkdir(parents=True, exist_ok=True)
    study = _open_study(directory, config)
    protocol = prepare_protocol(log, config, directory, lambda line: None)
    study.set_user_attr("config", json.loads(json.dumps(settings.to_dict(config))))
    limit = 60 * (minutes / 5 if trial_minutes is None else trial_minutes)
    with Interrupts() as interrupts:
        pace = _known_pace(study, protocol, config, limit, say)
        config = settings.replace(config, pace.length)
        while not interrupts.received:
            left = 60 * minutes - _spent(study)
            preset_tried = any(_ended(trial) and not trial.params for trial in study.trials)
            if left <= 0 or (preset_tried and (left < pace.least or not space)):
                break
            if [_ended(trial) and trial.value is None for trial in study.trials[-REFUSED:]] == (
                [True] * REFUSED
            ):
                say(f"{model}: {REFUSED} trials in a row came to nothing, the search ends")
                break
            trial = study.ask(_distributions(space) if preset_tried else {})
            started = time.monotonic()
            deadline = started + min(left, limit)
            problem = None
            try:
                problem = make_problem(protocol, settings.replace(config, trial.params))
                value, steps, how = _try(problem, trial, deadline, interrupts)
            except (ConfigError, NonFiniteError) as error:
                value, steps, how = None, None, str(error).split(";")[0]
            if how == INTERRUPTED:  # is repeated, and not charged
                _again(study, trial.params)
                value = None
            trial.set_user_attr("seconds", time.monotonic() - started)
            trial.set_user_attr("adapt_steps", steps)
            trial.set_user_attr("ended", how)
            _tell(study, trial, value)
            shown = "-" if value is None else f"{value:.4f}"
            say(f"{model}, trial {trial.number}: validation MAP {shown} ({how})")
            del problem
            jax.clear_caches()  # settings are constants of the programs: none serves another trial
            gc.collect()
    return _write(study, config, directory, bool(interrupts.received))


def read_tuned(directory: str | os.PathLike, preset: str) -> dict[str, dict[str, Any]]:
    """What the `MODEL.json` files of a directory hold, by model.

    Args:
        directory: the work directory of searches.
        preset: from which they must have started.

    Raises:
        WorkdirError: there are none, one is damaged or no model's, or started from another preset.
    """
    files = sorted(Path(directory).glob("*.json"))
    if not files:
        raise WorkdirError(f"{directory}: no MODEL.json; expected what experiments.tune writes")
    found = {}
    for file in files:
        if file.stem not in SPACES:
            near = ", ".join(difflib.get_close_matches(file.stem, SPACES, 3, 0.4) or SPACES)
            raise WorkdirError(f"{file}: no model has this name; nearest: {near}")
        content = _read(file)
        full = presets.preset(preset, file.stem).preset
        if content.get("preset") != full:
            raise WorkdirError(
                f"{file}: searched from the preset {content.get('preset')!r}, expected {full!r}"
            )
        found[file.stem] = content
    return found


def searched(tuned: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> str:
    """A line for a report: which models were searched at what cost, and which were not."""
    parts = []
    for model in models:
        if model in tuned:
            minutes = tuned[model]["seconds"] / 60
            parts.append(f"{model} ({tuned[model]['trials']} trials, {minutes:.1f} min)")
    left = [model for model in models if model not in tuned]
    text = f"Settings from a search on validation users: {', '.join(parts) or 'none'}."
    return text + (f" From the preset alone: {', '.join(left)}." if left else "")


def read_settings(file: str | os.PathLike) -> dict[str, Any]:
    """The settings of one `MODEL.json`.

    Raises:
        WorkdirError: it is missing or damaged.
    """
    return dict(_read(Path(file))["settings"])


def _read(file: Path) -> Mapping[str, Any]:
    content = read_json(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("settings"), Mapping):
        raise WorkdirError(
            f'{file}: expected an object with "settings", as experiments.tune writes'
        )
    return content


def _open_study(directory: Path, config: Config):
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ConfigError(
            'tuning needs optuna, which is not installed: pip install "metacsr_jax[tune]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(directory / "trials.journal")))
    study = optuna.create_study(
        storage=storage,
        study_name=config.train.model,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
    )
    before = study.user_attrs.get("config")
    different = settings.differences(settings.from_dict(before), config) if before else ()
    if different:
        raise WorkdirError(
            f"{directory}: its search started from another configuration (there, here): {'; '.join(different[:5])}"
        )
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:  # killed: is repeated, and not charged
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            _again(study, trial.params)
    # A sampler whose seed follows the trials made, so that a resumed search does not repeat its draws.
    seed = config.train.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
    return study


def _distributions(space: Space) -> dict[str, Any]:
    from optuna import distributions

    def one(searched):
        if not isinstance(searched, Range):
            return distributions.CategoricalDistribution(searched)
        low, high, log, whole = searched
        if whole:
            return distributions.IntDistribution(int(low), int(high), log=log)
        return distributions.FloatDistribution(low, high, log=log)

    return {name: one(searched) for name, searched in space.items()}


def _again(study, params: Mapping[str, Any]) -> None:
    """Puts settings first in line; the preset is, as long as it has no trial that ended."""
    if params:
        study.enqueue_trial(dict(params))


def _ended(trial) -> bool:
    """Whether a trial came to its own end, by whatever way."""
    return trial.user_attrs.get("ended", INTERRUPTED) != INTERRUPTED


def _spent(study) -> float:
    """Seconds of the trials that came to an end, and of what was measured before them."""
    trials = sum(trial.user_attrs["seconds"] for trial in study.trials if _ended(trial))
    return trials + study.user_attrs.get("pace", {}).get("seconds", 0.0)


def _known_pace(study, protocol: Protocol, config: Config, limit: float, say) -> Pace:
    """As measured when the search began; the same trials afterwards, whatever else the machine does."""
    if "pace" not in study.user_attrs:
        pace = measure_pace(make_problem(protocol, config), limit)
        study.set_user_attr("pace", pace._asdict())
        if pace.length:
            shown = ", ".join(f"{name}={value}" for name, value in pace.length.items())
            say(f"{config.train.model}: a trial has {limit:.0f} s and is shortened to {shown}")
    return Pace(**study.user_attrs["pace"])


def _try(problem: Problem, trial, deadline: float, interrupts) -> tuple[float, int, str]:
    """Trains until the deadline: the best validation MAP, its adaptation steps, and how it ended."""
    model, train = problem.model, problem.config.train
    validate = make_validation(problem)
    init_key, step_key = seed_keys(problem.config)
    state = jax.jit(lambda: model.init(init_key))()
    best, best_at, step = -1.0, 0, 0

    def judge(adapt_steps):
        nonlocal best, best_at
        validation = validate(state.params, adapt_steps)
        at = best_steps(validation)
        if validation[at]["map"] > best:
            best, best_at = validation[at]["map"], at

    adapt_steps = problem.config.evaluation.adapt_steps
    judged = -1
    while step < model.total:
        started = time.monotonic()
        phase = model.phase_of(step + 1)
        state, reports = phase.chunk(state, model.data, step_key)
        refuse_non_finite(jax.device_get(reports), step, train.model)
        step += train.chunk
        now = time.monotonic()
        late = now + (now - started) > deadline  # the next one would end after it
        if interrupts.received:
            return best, best_at, INTERRUPTED
        if phase.final and step % train.validate_every == 0:
            judge(adapt_steps)
            judged = step
            trial.report(best, step)
            if trial.should_prune():
                return best, best_at, f"stopped at {model.unit} {step} by the median rule"
        if late:
            break
    if judged != step:
        judge(adapt_steps)
    how = "trained to its end" if step >= model.total else f"time over at {model.unit} {step}"
    return best, best_at, how


def _tell(study, trial, value: float | None) -> None:
    from optuna.trial import TrialState

    if value is None:
        study.tell(trial, state=TrialState.FAIL)
    else:  # a stopped trial's best value is a lower bound, and worth knowing to the sampler
        study.tell(trial, value)


def _write(study, config: Config, directory: Path, interrupted: bool) -> Tuned:
    """The winning settings and the table of trials."""
    model = config.train.model
    rows = [_row(trial) for trial in study.trials if trial.datetime_start]  # not those in line
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (directory / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, names, restval="", lineterminator="\n")
        lines.writeheader()
        lines.writerows(rows)
    body = [[_text(row.get(name)) for name in names] for row in rows]
    (directory / "trials.md").write_text(layout(names, body, "markdown") + "\n", encoding="utf-8")
    path = directory.parent / f"{model}.json"
    valued = [trial for trial in study.trials if trial.value is not None]
    if not valued:
        return Tuned({}, float("nan"), len(rows), _spent(study), path, interrupted)
    best = max(valued, key=lambda trial: trial.value)
    content = {
        "model": model,
        "preset": config.preset,
        "settings": best.params,
        "validation_map": best.value,
        "adapt_steps": best.user_attrs["adapt_steps"],
        "trials": len(rows),
        "seconds": round(_spent(study), 1),
        # What a trial had time for; the settings are meant for a training of the preset's length.
        "trial_length": study.user_attrs["pace"]["length"],
    }
    write_json(path, content)
    return Tuned(best.params, best.value, len(rows), content["seconds"], path, interrupted)


def _row(trial) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "trial": trial.number,
        "validation MAP": trial.value,
        "adapt_steps": attributes.get("adapt_steps"),
        "seconds": attributes.get("seconds"),
        "ended": attributes.get("ended", "killed"),
        **trial.params,
    }


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
