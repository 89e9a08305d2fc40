"""Looks inside the trained runs that an exhibit asks for; what is measured already is not measured again."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from metacsr_jax import workdir as workdirs
from metacsr_jax.analysis.histories import latest, lengths_to_rank, rank_histories, shuffled
from metacsr_jax.analysis.probe import item_vectors, probe, write_probe
from metacsr_jax.errors import NonFiniteError
from metacsr_jax.files import write_whole
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.protocol import cases
from metacsr_jax.report.comparison import Finished
from metacsr_jax.reproduce.plan import METHODS, Options, method_name
from metacsr_jax.trained import load_trained

STEPS = (0, 1, 2, 3, 5, 10, 20)  # adaptation steps of the curves
INSIDE = ("metacsr", "pretrain")  # with and without Meta Learner
SHUFFLES = 3
OF_PROBES = ("fig6", "fig7", "fig8", "fig9", "fig10", "fig11", "shift")


def measure_all(
    options: Options,
    exhibits: Sequence[str],
    runs: dict[str, list[Finished]],
    say: Callable[[str], None],
) -> dict[str, str] | None:
    """Measures what the exhibits ask for of the runs that are there.

    Args:
        options: the reproduction's.
        exhibits: of `plan.check_exhibits`.
        runs: finished ones by name.
        say: receives a line for each run that is measured.

    Returns:
        What could not be measured, and why; None where a signal stopped it, and the same call goes on.
    """
    failed = {}
    with Interrupts() as interrupts:
        for name, of_name in runs.items():
            for run in of_name:
                for title, work in _work(options, exhibits, name, run, fine_steps(runs)):
                    if interrupts.received:
                        return None
                    place = f"{name}, seed {run.seed}: {title}"
                    say(place)
                    try:
                        work()
                    except Exception as error:  # the rest of the page is none the worse
                        failed[place] = f"{type(error).__name__}: {error}"
                        say(f"{place}: failed: {failed[place]}")
                    jax.clear_caches()
        return None if interrupts.received else failed


def probe_path(run: Finished, scenario: str, steps: int) -> Path:
    """Where a probe of a run lies."""
    return run.path / "analysis" / f"probe-{scenario}-{steps}.npz"


def items_path(run: Finished) -> Path:
    """Where the item vectors of a run lie."""
    return run.path / "analysis" / "items.npy"


def adapted_steps(run: Finished) -> int:
    """The number of steps "with fine-tuning": the best of one or more on validation users."""
    return run.steps.get("adapted", 1)


def fine_steps(runs: Mapping[str, Sequence[Finished]]) -> int:
    """Adaptation steps of "fine-tuned", the same with and without Meta Learner: metaCSR's best, of its first seed."""
    for name in INSIDE:
        if runs.get(name):
            return adapted_steps(runs[name][0])
    return 1


def probe_steps(name: str, scenario: str, exhibits: Sequence[str], fine: int) -> list[int]:
    """Numbers of steps at which a run is looked into."""
    curves = scenario == "cold" and {"fig6", "steps", "shift"} & set(exhibits)
    clouds = name in INSIDE and set(OF_PROBES) & set(exhibits)
    return sorted({*(STEPS if curves else ()), *((0, fine) if clouds else ())})


def _work(options: Options, exhibits: Sequence[str], name: str, run: Finished, fine: int):
    """What is to be done for one run: titles and functions."""
    _forget_other_checkpoints(run)
    learners = (
        {method_name(options, method) for method in METHODS} if "steps" in exhibits else set()
    )
    if name in learners or (name in INSIDE and set(OF_PROBES) & set(exhibits)):
        for scenario in ("cold", "warm") if name in INSIDE else ("cold",):
            for steps in probe_steps(name, scenario, exhibits, fine):
                path = probe_path(run, scenario, steps)
                if not path.exists() and not _diverged(path).exists():
                    title = f"{scenario} users inside, {steps} adaptation steps"
                    yield title, partial(_probe, run, scenario, steps)
        if name in INSIDE and not items_path(run).exists():
            yield "item vectors", partial(_items, run)
    if name in options.order_models:
        for exhibit, work in (("length", _lengths), ("order", _order)):
            if exhibit in exhibits and not histories_path(run, exhibit).exists():
                yield f"histories, {exhibit}", partial(work, run)


def histories_path(run: Finished, exhibit: str) -> Path:
    """Where ranks of changed histories lie: arrays "rank_KN" and "others_KN", a line for each version."""
    return run.path / "analysis" / f"histories-{exhibit}.npz"


def _forget_other_checkpoints(run: Finished) -> None:
    """Empties `analysis/` of another checkpoint, as evaluation does with its own."""
    best = workdirs.read_manifest(run.path)["best_step"]
    if workdirs.read_manifest(run.path).get("analysed_step", best) != best:
        for file in (run.path / "analysis").glob("*.*"):
            file.unlink()
    workdirs.update_manifest(run.path, analysed_step=best)


def _probe(run: Finished, scenario: str, steps: int) -> None:
    path = probe_path(run, scenario, steps)
    try:
        write_probe(path, probe(load_trained(run.path), scenario, steps))
    except NonFiniteError as error:  # is so again every time: a curve has no point there
        text = str(error).encode()
        write_whole(_diverged(path), lambda file: file.write(text))


def _diverged(path: Path) -> Path:
    """Says that a probe has nothing to show."""
    return path.with_suffix(".diverged")


def _items(run: Finished) -> None:
    vector_ID = item_vectors(load_trained(run.path))
    write_whole(items_path(run), lambda file: np.save(file, vector_ID))


def _lengths(run: Finished) -> None:
    trained = load_trained(run.path)
    held_out, length_K = lengths_to_rank(trained)
    everyone_N = np.arange(len(held_out.user_N))
    histories = [latest(held_out, length, everyone_N) for length in length_K]
    _write_ranks(run, "length", rank_histories(trained, "cold", histories, _steps(run)))


def _order(run: Finished) -> None:
    trained = load_trained(run.path)
    held_out = cases(trained.problem.protocol, "cold")
    histories = [held_out, *(shuffled(held_out, seed) for seed in range(SHUFFLES))]
    _write_ranks(run, "order", rank_histories(trained, "cold", histories, _steps(run)))


def _steps(run: Finished) -> int:
    return run.steps[run.chosen]


def _write_ranks(run: Finished, exhibit: str, ranks) -> None:
    content = {
        "rank_KN": np.array([of.rank_N for of in ranks]),
        "others_KN": np.array([of.others_N for of in ranks]),
    }
    write_whole(histories_path(run, exhibit), lambda file: np.savez(file, **content))
