"""Evaluation of a work directory's model, and of any score function on the same cases."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from metacsr_jax import workdir as workdirs
from metacsr_jax.baselines import BASELINES
from metacsr_jax.cases import CaseBatch
from metacsr_jax.errors import ConfigError, NonFiniteError, WorkdirError
from metacsr_jax.evaluation.differences import Compared, differences
from metacsr_jax.evaluation.ranking import Ranks, rank_cases
from metacsr_jax.evaluation.rows import Row, metric_rows, write_ranks, write_rows
from metacsr_jax.model import Score
from metacsr_jax.problem import Problem, scenario_batches
from metacsr_jax.score import batch_size
from metacsr_jax.trained import Trained, load_trained

BY_GROUP = ("metacsr", "pretrain")


def evaluate(
    workdir: str | os.PathLike,
    *,
    checkpoint: str = "best",
    scenarios: Sequence[str] | None = None,
    adapt_steps: Sequence[int] | None = None,
    adapt_per: Sequence[str] | None = None,
    batch: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Evaluates a checkpoint and writes rows and per-case ranks into `evaluation/`.

    Args:
        workdir: written by training; nothing else is read.
        checkpoint: "best", "last" or a saved step. What `evaluation/` holds of another one makes way.
        scenarios: of "cold", "warm"; None: as configured.
        adapt_steps: inner steps on each user's support, several; None: as configured, with the chosen number.
        adapt_per: "user", "group" or both; None: as configured. Rows of adaptation by group carry the model's name with "-group".
        batch: users adapted at once; None: as configured.
        say: told of numbers of steps at which somebody's adaptation diverges, which are left out.

    Returns:
        The rows of this evaluation.

    Raises:
        WorkdirError: the work directory cannot be used.
        ConfigError: adaptation by group is asked of a model that has none.
        NonFiniteError: scores diverge without adaptation, or at the chosen steps.
    """
    trained = load_trained(workdir, checkpoint)
    config = trained.problem.config
    _forget_other_checkpoints(trained)
    if adapt_steps is None:
        adapt_steps = sorted({*config.evaluation.adapt_steps, trained.chosen_adapt_steps})
    if not trained.problem.model.adapts:
        adapt_steps = (0,)
    if "group" in (adapt_per or ()) and trained.problem.model.name not in BY_GROUP:
        raise ConfigError(
            f"adapt_per=group: {trained.problem.model.name} adapts by user only; {' and '.join(BY_GROUP)} by group, too"
        )
    rows: list[Row] = []
    for per in adapt_per or config.evaluation.adapt_per:
        name = trained.problem.model.name + ("" if per == "user" else "-group")
        score = score_of(trained, per)
        for scenario in scenarios or config.evaluation.scenarios:
            for steps in adapt_steps:
                size = batch_size(config, per, steps, batch)
                try:
                    ranks = rank_scenario(trained.problem, score, scenario, steps, size)
                except NonFiniteError as error:
                    if steps in (0, trained.chosen_adapt_steps):
                        raise
                    say(f"{scenario}, {steps} adaptation steps: left out, {error}")
                    continue
                suffix = "" if per == "user" else per
                rows += _record(trained, name, scenario, steps, ranks, suffix)
    write_rows(trained.workdir, rows)
    return rows


def _forget_other_checkpoints(trained: Trained) -> None:
    """Empties `evaluation/` of another checkpoint before the first of this one is written: its files do not say whose they are."""
    before = workdirs.read_manifest(trained.workdir).get("evaluated_step", trained.step)
    if before != trained.step:
        for pattern in ("ranks-*.npz", "rows.*", "differences.*"):
            for file in (trained.workdir / "evaluation").glob(pattern):
                file.unlink()
    workdirs.update_manifest(trained.workdir, evaluated_step=trained.step)


def evaluate_baselines(
    workdir: str | os.PathLike, names: Sequence[str], scenarios: Sequence[str] | None = None
) -> list[Row]:
    """Fits counting baselines on a work directory's protocol and adds their rows to its `evaluation/`.

    Args:
        workdir: written by training.
        names: of `metacsr_jax.baselines.BASELINES`; each one's ranks are kept as `ranks-<scenario>-<name>-...`.
        scenarios: as in `evaluate`.

    Returns:
        The rows of the baselines.

    Raises:
        ConfigError: there is no such baseline.
    """
    check_baselines(names)
    trained = load_trained(workdir)
    problem, rows = trained.problem, []
    for name in names:
        baseline = BASELINES[name](problem.config)
        state = baseline.fit(problem.protocol, jax.random.key(problem.config.train.seed))

        def score(batch, steps, baseline=baseline, state=state):
            return baseline.score(state, jax.device_get(batch), steps)

        for scenario in scenarios or problem.config.evaluation.scenarios:
            ranks = rank_scenario(problem, score, scenario, 0)
            rows += _record(trained, name, scenario, 0, ranks, name)
    write_rows(trained.workdir, rows)
    return rows


def check_baselines(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that no baseline has."""
    for name in names:
        if name not in BASELINES:
            raise ConfigError(f"unknown baseline {name!r}; expected some of {', '.join(BASELINES)}")


def evaluate_differences(
    workdir: str | os.PathLike,
    *,
    baselines: Sequence[str] = (),
    scenarios: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Paired differences of what has been evaluated: the chosen adaptation steps minus none, and minus each baseline.

    Args:
        workdir: evaluated at 0 and at the chosen steps, and with these baselines.
        baselines: as in `evaluate_baselines`.
        scenarios: as in `evaluate`.

    Returns:
        Rows as `evaluation.differences.differences` has them; also written to `evaluation/differences.json`.

    Raises:
        WorkdirError: an evaluation that is asked for is missing.
    """
    config, manifest = workdirs.read_config(workdir), workdirs.read_manifest(workdir)
    model, steps = config.train.model, manifest.get("chosen_adapt_steps")
    if steps is None:
        raise WorkdirError(f"{workdir}: no adaptation steps are chosen yet; finish training first")
    pairs = []
    for scenario in scenarios or config.evaluation.scenarios:
        chosen = Compared(f"{model}, {steps} steps", scenario, steps)
        if steps:
            pairs.append((chosen, Compared(f"{model}, 0 steps", scenario, 0)))
        pairs += [(chosen, Compared(name, f"{scenario}-{name}", 0)) for name in baselines]
    kinds = (f"sampled-{config.protocol.num_negatives}", "full")
    rows = differences(workdir, pairs, kinds, resamples=config.evaluation.bootstrap)
    workdirs.write_json(Path(workdir) / "evaluation" / "differences.json", rows)
    return rows


def score_of(trained: Trained, adapt_per: str = "user") -> Score:
    """The model as the harness sees it: `(batch, adapt_steps) -> logits [B, I]`."""
    return trained.problem.model.bind(trained.params, adapt_per)


def rank_scenario(
    problem: Problem, score: Score, scenario: str, adapt_steps: int, batch: int | None = None
) -> dict[str, Ranks]:
    """Ranks of all cases of a scenario, by kind of candidates ("sampled-100", "full")."""
    held_out, inputs = scenario_batches(problem, scenario)

    def batches(start: int, stop: int) -> CaseBatch:
        return CaseBatch(*(array[start:stop] for array in inputs))

    size = batch or batch_size(problem.config, adapt_steps=adapt_steps)
    return rank_cases(score, held_out, batches, adapt_steps, problem.protocol.mask_seen, size)


def _rows(trained: Trained, model: str, scenario: str, steps: int, ranks) -> list[Row]:
    problem = trained.problem
    held_out, _ = scenario_batches(problem, scenario)
    return metric_rows(
        ranks,
        held_out,
        model=model,
        dataset=problem.protocol.name,
        seed=problem.config.train.seed,
        scenario=scenario,
        adapt_steps=steps,
        resamples=problem.config.evaluation.bootstrap,
    )


def _record(
    trained: Trained, model: str, scenario: str, steps: int, ranks, suffix: str
) -> list[Row]:
    held_out, _ = scenario_batches(trained.problem, scenario)
    protocol = trained.problem.protocol
    write_ranks(
        trained.workdir,
        ranks,
        held_out,
        scenario=f"{scenario}-{suffix}" if suffix else scenario,
        adapt_steps=steps,
        user_ids=protocol.user_ids,
        item_ids=protocol.item_ids,
    )
    return _rows(trained, model, scenario, steps, ranks)
