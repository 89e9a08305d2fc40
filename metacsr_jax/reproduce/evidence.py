"""What decides the paper's claims: differences with intervals, computed from the numbers on the page.

The intervals of the k parts of a claim hold together with 95 %: each is one at 1 - .05 / k (Bonferroni).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metacsr_jax.analysis.clouds import energy_distance, mean_statistic, overlap, relative_move
from metacsr_jax.report.paper import RIVALS
from metacsr_jax.reproduce.plan import (
    WITH_MEAN,
    WITHOUT_DIFFUSION,
    WITHOUT_META,
    length_name,
    share_name,
)
from metacsr_jax.reproduce.results import (
    Point,
    Results,
    differences,
    items,
    probes,
    same_cases,
    values,
)

CLOSE = 0.005  # of AUC: as good as no change
SMALL_MOVE = 0.1  # of the cloud's spread: hardly any shift
NEARLY, ENOUGH = 0.7, 0.85  # of the data: the paper needs 85 % at most (figure 5)


class Part(NamedTuple):
    """What a claim says to be above a bound, with its interval."""

    label: str
    point: Point
    bound: float = 0.0


def level(parts: int) -> float:
    """Of the single intervals of so many parts."""
    return 1 - 0.05 / max(1, parts)


def ahead(
    results: Results,
    one: str,
    others: Sequence[str],
    scenario: str,
    metrics: Sequence[str] = ("auc", "map"),
    among: int = 1,
) -> tuple[Part, ...]:
    """That one run is above each of the others, by each metric; () where it or all of them are missing.

    Args:
        results: all of them.
        one, others: names of runs.
        scenario: "cold" or "warm".
        metrics: by which.
        among: from so many runs `one` was picked by its results: the intervals hold together for all of them.
    """
    there = [name for name in others if same_cases(results, one, name, scenario=scenario)]
    asked = [(metric, name) for metric in metrics for name in there]
    pairs = [
        tuple(values(results, of, metric, scenario) for of in (one, name)) for metric, name in asked
    ]
    found = differences(pairs, level(len(asked) * among))
    return tuple(
        Part(f"{metric.upper()}, {one} minus {name}", point)
        for (metric, name), point in zip(asked, found, strict=True)
    )


def best(results: Results, names: tuple[str, ...], metric: str, scenario: str) -> str | None:
    """The run with the highest mean; None where all are missing."""
    means = {
        name: float(found.mean())
        for name in names
        if (found := values(results, name, metric, scenario)) is not None
    }
    return max(means, key=means.get) if means else None


def ahead_of_all(results: Results, scenario: str) -> tuple[Part, ...]:
    """metaCSR above every other model of tables 3 and 4."""
    others = [name for name in results.options.models if name != "metacsr"]
    return ahead(results, "metacsr", others, scenario)


def bpr_is_worst(results: Results) -> tuple[Part, ...]:
    """Each other baseline above BPR, by MAP."""
    others = [name for name in RIVALS if name != "bpr" and same_cases(results, "bpr", name)]
    pairs = [tuple(values(results, of) for of in (name, "bpr")) for name in others]
    found = differences(pairs, level(len(others)))
    return tuple(
        Part(f"MAP, {name} minus bpr", point) for name, point in zip(others, found, strict=True)
    )


def best_baselines(results: Results) -> tuple[Part, ...]:
    """The better of SML and MetaCF above each of the paper's other baselines.

    Not above the best of them alone: the highest of many noisy means is too high (the winner's curse).
    """
    leaders = ("sml", "metacf-ngcf")
    if not results.has(*leaders):
        return ()
    own = best(results, leaders, "map", "cold")
    others = [name for name in RIVALS if name not in leaders]
    return ahead(results, own, others, "cold", ("map",), among=len(leaders))


def part_of_the_data(results: Results) -> tuple[Part, ...]:
    """With nearly `ENOUGH` of the users, metaCSR is not more than `CLOSE` below any of the paper's baselines with all of them.

    A smaller share could refute nothing: the paper says that some share up to `ENOUGH` suffices.
    """
    shares = [
        share
        for share in results.options.shares
        if NEARLY <= share <= ENOUGH and results.has(share_name(share))
    ]
    if not shares:
        return ()
    parts = ahead(results, share_name(max(shares)), RIVALS, "cold")
    return tuple(part._replace(bound=-CLOSE) for part in parts)


def components_pay(results: Results) -> tuple[Part, ...]:
    """metaCSR above itself without each component."""
    return ahead(results, "metacsr", (WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META), "cold")


def meta_pays_most(results: Results) -> tuple[Part, ...]:
    """Without the Meta Learner it is worse than without either of the others."""
    others = (WITHOUT_DIFFUSION, WITH_MEAN)
    return tuple(
        part
        for other in others
        for part in ahead(results, other, (WITHOUT_META,), "cold", among=len(others))
    )


def converges_fast(results: Results) -> tuple[Part, ...]:
    """AUC after one step: above the network without Meta Learner, and not `CLOSE` below AUC after 20 steps."""
    inside = {
        (name, steps): results.inside.get((name, steps))
        for name, steps in (("metacsr", 1), ("metacsr", 20), (WITHOUT_META, 1))
    }
    if None in inside.values():
        return ()
    one, late, other = (found["auc"] for found in inside.values())
    above, late_below, late_above = differences([(one, other), (one, late), (late, one)], level(3))
    return (
        Part("AUC after 1 step, metacsr minus without Meta Learner", above),
        Part("AUC, 1 step minus 20 steps", late_below, -CLOSE),
        Part("AUC, 20 steps minus 1 step", late_above, -CLOSE),
    )


def clouds_closer(results: Results, scenario: str) -> tuple[Part, ...]:
    """Fine-tuned preferences lie closer to the items with the Meta Learner than without."""
    distances = []
    for name in (WITHOUT_META, "metacsr"):
        found = _adapted(results, name, scenario)
        if found is None:
            return ()
        distances.append(
            energy_distance(some_vectors(found.preference_ND), some_vectors(items(results, name)))
        )
    return (
        _part(
            "energy distance to the items, without Meta Learner minus with",
            distances[0].minus(distances[1]),
            1,
        ),
    )


def less_overlap(results: Results) -> tuple[Part, ...]:
    """New users' positive and negative pairs overlap less with the Meta Learner than without."""
    found = [_adapted(results, name, "cold") for name in (WITHOUT_META, "metacsr")]
    if None in found:
        return ()
    of_each = [overlap(one.similarity_NC1[:, 0], one.similarity_NC1[:, 1:]) for one in found]
    return (
        _part(
            "overlap of new users' pairs, without Meta Learner minus with",
            of_each[0].minus(of_each[1]),
            1,
        ),
    )


def new_below_regular(results: Results) -> tuple[Part, ...]:
    """Similarity of positive pairs: regular users above new ones."""
    new, regular = (_adapted(results, "metacsr", scenario) for scenario in ("cold", "warm"))
    if new is None or regular is None:
        return ()
    means = [
        mean_statistic(one.similarity_NC1[:, 0], seed=seed)
        for seed, one in enumerate((regular, new))
    ]
    return (
        _part("similarity of positive pairs, regular minus new users", means[0].minus(means[1]), 1),
    )


def hardly_moves(results: Results) -> tuple[Part, ...]:
    """Fine-tuning moves new users' preferences by less than `SMALL_MOVE` of their spread, and by less than without Meta Learner."""
    moves = []
    for name in ("metacsr", WITHOUT_META):
        before, after = probes(results, name, "cold", 0), _adapted(results, name, "cold")
        if before is None or after is None:
            return ()
        moves.append(mean_statistic(relative_move(before.preference_ND, after.preference_ND)))
    own, other = moves
    still = own._replace(value=SMALL_MOVE - own.value, resampled_R=SMALL_MOVE - own.resampled_R)
    return (
        _part(f"{SMALL_MOVE:g} minus the mean move, in units of the spread", still, 2),
        _part("mean move, without Meta Learner minus with", other.minus(own), 2),
    )


def well_mixed(results: Results) -> tuple[Part, ...]:
    """New and regular users' preferences lie closer together with the Meta Learner than without, fine-tuned and not."""
    parts = []
    for tuned in (False, True):
        distances = []
        for name in (WITHOUT_META, "metacsr"):
            pair = [
                _adapted(results, name, scenario) if tuned else probes(results, name, scenario, 0)
                for scenario in ("cold", "warm")
            ]
            if None in pair:
                return ()
            distances.append(energy_distance(*(some_vectors(one.preference_ND) for one in pair)))
        how = "fine-tuned" if tuned else "not fine-tuned"
        parts.append(
            _part(
                f"energy distance of new and regular users, {how}, without Meta Learner minus with",
                distances[0].minus(distances[1]),
                2,
            )
        )
    return tuple(parts)


def ten_is_best(results: Results) -> tuple[Part, ...]:
    """T = 10 above every other T by MAP, cold and warm."""
    own = length_name(results.options, 10)
    others = [
        length_name(results.options, length) for length in results.options.lengths if length != 10
    ]
    # Two scenarios, so twice as many parts as each call sees.
    cold, warm = (
        ahead(results, own, others, scenario, ("map",), among=2) for scenario in ("cold", "warm")
    )
    labelled = [
        part._replace(label=f"{part.label}, {scenario}")
        for scenario, parts in (("cold", cold), ("warm", warm))
        for part in parts
    ]
    return tuple(labelled)


def _adapted(results: Results, name: str, scenario: str):
    """Fine-tuned: at the same number of steps with and without Meta Learner."""
    return probes(results, name, scenario, results.fine_steps)


def _part(label: str, statistic, parts: int) -> Part:
    return Part(label, Point(*statistic.interval(level(parts))))


def some_vectors(vector_ND: np.ndarray, most: int = 1000) -> np.ndarray:
    """Distances of all pairs are taken: not more than a thousand vectors, the same ones for equal counts."""
    if len(vector_ND) <= most:
        return vector_ND
    return vector_ND[np.random.default_rng(0).permutation(len(vector_ND))[:most]]
