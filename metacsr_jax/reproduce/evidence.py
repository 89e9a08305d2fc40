"""What decides the paper's claims: differences with intervals, computed from the numbers on the page.

The intervals of the k parts of a claim hold together with 95 %: each is one at 1 - .05 / k (Bonferroni).
"""

from typing import NamedTuple

import numpy as np

from metacsr_jax.analysis.clouds import energy_distance, mean_statistic, overlap, relative_move
from metacsr_jax.report.paper import RIVALS
from metacsr_jax.reproduce.measure import adapted_steps
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
    difference,
    items,
    probes,
    same_cases,
    values,
)

CLOSE = 0.005  # of AUC: as good as no change
SMALL_MOVE = 0.1  # of the cloud's spread: hardly any shift
ENOUGH = 0.85  # the largest share of the data that the paper needs (figure 5)


class Part(NamedTuple):
    """What a claim says to be above a bound, with its interval."""

    label: str
    point: Point
    bound: float = 0.0


def level(parts: int) -> float:
    """Of the single intervals of so many parts."""
    return 1 - 0.05 / max(1, parts)


def ahead(
    results: Results, one: str, others: tuple[str, ...], scenario: str, metrics=("auc", "map")
) -> tuple[Part, ...]:
    """That one run is above each of the others, by each metric; () where it or all of them are missing."""
    there = [name for name in others if same_cases(results, one, name, scenario=scenario)]
    parts, count = [], len(there) * len(metrics)
    for metric in metrics:
        for name in there:
            pair = (values(results, of, metric, scenario) for of in (one, name))
            parts.append(
                Part(f"{metric.upper()}, {one} minus {name}", difference(*pair, level(count)))
            )
    return tuple(parts)


def best(results: Results, names: tuple[str, ...], metric: str, scenario: str) -> str | None:
    """The run with the highest mean; None where all are missing."""
    means = {
        name: float(found.mean())
        for name in names
        if (found := values(results, name, metric, scenario)) is not None
    }
    return max(means, key=means.get) if means else None


def bpr_is_worst(results: Results) -> tuple[Part, ...]:
    """Each other baseline above BPR."""
    others = [name for name in RIVALS if name != "bpr" and same_cases(results, "bpr", name)]
    parts = []
    for name in others:
        pair = (values(results, of) for of in (name, "bpr"))
        parts.append(Part(f"MAP, {name} minus bpr", difference(*pair, level(len(others)))))
    return tuple(parts)


def best_baselines(results: Results) -> tuple[Part, ...]:
    """The better of SML and MetaCF above the best of the paper's other baselines."""
    leaders = ("sml", "metacf-ngcf")
    own = best(results, leaders, "map", "cold")
    other = best(results, tuple(name for name in RIVALS if name not in leaders), "map", "cold")
    return ahead(results, own, (other,), "cold", ("map",)) if own and other else ()


def part_of_the_data(results: Results) -> tuple[Part, ...]:
    """With the largest share of at most `ENOUGH`, metaCSR is not below the best of the paper's baselines at the whole."""
    shares = [
        share
        for share in results.options.shares
        if share <= ENOUGH and results.has(share_name(share))
    ]
    rivals = {metric: best(results, RIVALS, metric, "cold") for metric in ("auc", "map")}
    if not shares or None in rivals.values():
        return ()
    name = share_name(max(shares))
    parts = []
    for metric, rival in rivals.items():
        pair = (values(results, of, metric) for of in (name, rival))
        found = difference(*pair, level(2))
        parts.append(Part(f"{metric.upper()}, {max(shares):.0%} of the users minus {rival}", found))
    return tuple(parts)


def components_pay(results: Results) -> tuple[Part, ...]:
    """metaCSR above itself without each component."""
    return ahead(results, "metacsr", (WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META), "cold")


def meta_pays_most(results: Results) -> tuple[Part, ...]:
    """Without the Meta Learner it is worse than without either of the others."""
    parts = []
    for other in (WITHOUT_DIFFUSION, WITH_MEAN):
        parts += ahead(results, other, (WITHOUT_META,), "cold", ("auc", "map"))
    return tuple(parts)


def converges_fast(results: Results) -> tuple[Part, ...]:
    """AUC after one step: above the network without Meta Learner, and not `CLOSE` below AUC after 20 steps."""
    inside = {
        (name, steps): results.inside.get((name, steps))
        for name, steps in (("metacsr", 1), ("metacsr", 20), (WITHOUT_META, 1))
    }
    if None in inside.values():
        return ()
    one, late, other = (found["auc"] for found in inside.values())
    return (
        Part(
            "AUC after 1 step, metacsr minus without Meta Learner", difference(one, other, level(3))
        ),
        Part("AUC, 1 step minus 20 steps", difference(one, late, level(3)), -CLOSE),
        Part("AUC, 20 steps minus 1 step", difference(late, one, level(3)), -CLOSE),
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
    """T = 10 above every other T, cold and warm."""
    others = tuple(
        length_name(results.options, length) for length in results.options.lengths if length != 10
    )
    own = length_name(results.options, 10)
    return (
        *ahead(results, own, others, "cold", ("map",)),
        *ahead(results, own, others, "warm", ("map",)),
    )


def _adapted(results: Results, name: str, scenario: str):
    if not results.has(name):
        return None
    return probes(results, name, scenario, adapted_steps(results.runs[name][0]))


def _part(label: str, statistic, parts: int) -> Part:
    return Part(label, Point(*statistic.interval(level(parts))))


def some_vectors(vector_ND: np.ndarray, most: int = 1000) -> np.ndarray:
    """Distances of all pairs are taken: not more than a thousand vectors, the same ones for equal counts."""
    if len(vector_ND) <= most:
        return vector_ND
    return vector_ND[np.random.default_rng(0).permutation(len(vector_ND))[:most]]
