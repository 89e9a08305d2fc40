"""Looks inside the trained runs that an exhibit asks for; what is measured already is not measured again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from metacsr_jax import workdir as workdirs
from metacsr_jax.analysis.histories import latest, lengths_to_rank, rank_histories, shuffled
from metacsr_jax.analysis.probe import item_vectors, probe, write_probe
from metacsr_jax.interrupt import Interrupts
from metacsr_jax.protocol import cases
from metacsr_jax.report.comparison import Finished
from metacsr_jax.reproduce.plan import METHODS, ORDER_MODELS, Options, method_name
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
) -> bool:
    """Measures what the exhibits ask for of the runs that are there.

    Args:
        options: the reproduction's.
        exhibits: of `plan.check_exhibits`.
        runs: finished ones by name.
        say: receives a line for each run that is measured.

    Returns:
        False where a signal stopped it; the same call goes on.
    """
    with Interrupts() as interrupts:
        for name, of_name in runs.items():
            for run in of_name:
                for title, work in _work(options, exhibits, name, run):
                    if interrupts.received:
                        return False
                    say(f"{name}, seed {run.seed}: {title}")
                    work()
                    jax.clear_caches()
    return True


def probe_path(run: Finished, scenario: str, steps: int) -> Path:
    """Where a probe of a run lies."""
    return run.path / "analysis" / f"probe-{scenario}-{steps}.npz"


def adapted_steps(run: Finished) -> int:
    """The number of steps "with fine-tuning": the best of one or more on validation users."""
    return run.steps.get("adapted", 1)


def probe_steps(run: Finished, name: str, scenario: str, exhibits: Sequence[str]) -> list[int]:
    """Numbers of steps at which a run is looked into."""
    curves = scenario == "cold" and {"fig6", "steps", "shift"} & set(exhibits)
    clouds = name in INSIDE and set(OF_PROBES) & set(exhibits)
    return sorted({*(STEPS if curves else ()), *((0, adapted_steps(run)) if clouds else ())})


def _work(options: Options, exhibits: Sequence[str], name: str, run: Finished):
    """What is to be done for one run: titles and functions."""
    _forget_other_checkpoints(run)
    learners = (
        {method_name(options, method) for method in METHODS} if "steps" in exhibits else set()
    )
    if name in learners or (name in INSIDE and set(OF_PROBES) & set(exhibits)):
        for scenario in ("cold", "warm") if name in INSIDE else ("cold",):
            wanted = probe_steps(run, name, scenario, exhibits)
            missing = tuple(
                steps for steps in wanted if not probe_path(run, scenario, steps).exists()
            )
            if missing:
                title = f"{scenario} users inside, {', '.join(map(str, missing))} adaptation steps"
                yield (
                    title,
                    lambda scenario=scenario, missing=missing: _probe(run, scenario, missing),
                )
        if name in INSIDE and not (run.path / "analysis" / "items.npy").exists():
            yield "item vectors", lambda: _items(run)
    if name in ORDER_MODELS:
        for exhibit, work in (("length", _lengths), ("order", _order)):
            if exhibit in exhibits and not histories_path(run, exhibit).exists():
                yield f"histories, {exhibit}", lambda work=work: work(run)


def histories_path(run: Finished, exhibit: str) -> Path:
    """Where ranks of changed histories lie: arrays "length_K" or none, "rank_KN" and "others_N"."""
    return run.path / "analysis" / f"histories-{exhibit}.npz"


def _forget_other_checkpoints(run: Finished) -> None:
    """Empties `analysis/` of another checkpoint, as evaluation does with its own."""
    best = workdirs.read_manifest(run.path)["best_step"]
    if workdirs.read_manifest(run.path).get("analysed_step", best) != best:
        for file in (run.path / "analysis").glob("*.np[yz]"):
            file.unlink()
    workdirs.update_manifest(run.path, analysed_step=best)


def _probe(run: Finished, scenario: str, steps: tuple[int, ...]) -> None:
    for count, found in probe(load_trained(run.path), scenario, steps):
        write_probe(probe_path(run, scenario, count), found)


def _items(run: Finished) -> None:
    np.save(run.path / "analysis" / "items.npy", item_vectors(load_trained(run.path)))


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
    path = histories_path(run, exhibit)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.stem}.partial.npz")
    others_KN = np.array([of.others_N for of in ranks])
    np.savez(draft, rank_KN=np.array([of.rank_N for of in ranks]), others_KN=others_KN)
    draft.replace(path)
