"""What decides the claims about Figures 6 to 11: what fine-tuning changes, and how preferences and items lie.

Clouds and moves are of each training seed's model by itself, and a claim has to hold of each: vectors of two trainings have no mean.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from metacsr_jax.analysis.clouds import (
    Statistic,
    energy_distance,
    mean_statistic,
    overlap,
    relative_move,
)
from metacsr_jax.analysis.probe import Probe
from metacsr_jax.reproduce.evidence import CLOSE, Part, level
from metacsr_jax.reproduce.plan import WITHOUT_META
from metacsr_jax.reproduce.results import Point, Results, differences, items, probes

SMALL_MOVE = 0.1  # of the cloud's spread: hardly any shift
WORTH = 0.05  # of a distance: smaller changes are none that a picture would show
TUNED = {False: "not fine-tuned", True: "fine-tuned"}
Labelled = tuple[str, Statistic, float]  # what it is, the statistic, the bound


def converges_fast(results: Results) -> tuple[Part, ...]:
    """AUC after one step: above none, above the network without Meta Learner, and within `CLOSE` of 20 steps."""
    asked = (("metacsr", 0), ("metacsr", 1), ("metacsr", 20), (WITHOUT_META, 1))
    inside = [results.inside.get(key) for key in asked]
    if None in inside:
        return ()
    none, one, late, other = (found["auc"] for found in inside)
    pairs = [(one, none), (one, other), (one, late), (late, one)]
    labels = (
        ("1 step minus none", 0.0),
        ("1 step, metacsr minus without Meta Learner", 0.0),
        ("1 step minus 20 steps", -CLOSE),
        ("20 steps minus 1 step", -CLOSE),
    )
    found = differences(pairs, level(len(pairs)))
    return tuple(
        Part(f"AUC, {label}", point, bound)
        for (label, bound), point in zip(labels, found, strict=True)
    )


def needs_no_tuning(results: Results) -> tuple[Part, ...]:
    """AUC not fine-tuned within `CLOSE` of that fine-tuned, or above."""
    pair = [results.inside.get(("metacsr", steps)) for steps in (0, results.fine_steps)]
    if None in pair:
        return ()
    (found,) = differences([tuple(of["auc"] for of in pair)], level(1))
    return (Part("AUC, not fine-tuned minus fine-tuned", found, -CLOSE),)


def clouds_closer(results: Results, scenario: str) -> tuple[Part, ...]:
    """Preferences lie closer to the items with the Meta Learner than without."""

    def of_seed(place: int) -> Iterator[Labelled]:
        for tuned, how in TUNED.items():
            distances = [
                energy_distance(
                    some_vectors(_probe(results, name, scenario, tuned, place).preference_ND),
                    some_vectors(_needed(items(results, name, place))),
                )
                for name in (WITHOUT_META, "metacsr")
            ]
            label = f"energy distance to the items, {how}: smaller with Meta Learner by a share of"
            yield label, _share_less(*distances), WORTH

    return _each_seed(results, of_seed)


def well_mixed(results: Results) -> tuple[Part, ...]:
    """New and regular users' preferences lie closer together with the Meta Learner than without."""

    def of_seed(place: int) -> Iterator[Labelled]:
        for tuned, how in TUNED.items():
            distances = [
                energy_distance(
                    *(
                        some_vectors(_probe(results, name, scenario, tuned, place).preference_ND)
                        for scenario in ("cold", "warm")
                    )
                )
                for name in (WITHOUT_META, "metacsr")
            ]
            label = f"energy distance of new and regular users, {how}: smaller with Meta Learner by a share of"
            yield label, _share_less(*distances), WORTH

    return _each_seed(results, of_seed)


def less_overlap(results: Results) -> tuple[Part, ...]:
    """New users' positive and negative pairs overlap less with the Meta Learner than without."""

    def of_seed(place: int) -> Iterator[Labelled]:
        without, own = (
            overlap(found.similarity_NC1[:, 0], found.similarity_NC1[:, 1:])
            for found in (
                _probe(results, name, "cold", True, place) for name in (WITHOUT_META, "metacsr")
            )
        )
        yield "overlap of new users' pairs, without Meta Learner minus with", without.minus(own), 0

    return _each_seed(results, of_seed)


def more_similar(results: Results) -> tuple[Part, ...]:
    """Similarity of new users' pairs: with the Meta Learner above without."""

    def of_seed(place: int) -> Iterator[Labelled]:
        own, without = (
            _similarities(_probe(results, name, "cold", True, place))
            for name in ("metacsr", WITHOUT_META)
        )
        for kind, one, other in zip(("positive", "negative"), own, without, strict=True):
            label = f"similarity of {kind} pairs, with Meta Learner minus without"
            yield label, one.minus(other), 0

    return _each_seed(results, of_seed)


def new_below_regular(results: Results) -> tuple[Part, ...]:
    """Similarity of pairs: regular users above new ones."""

    def of_seed(place: int) -> Iterator[Labelled]:
        # Other users on each side, so resampled by themselves.
        regular, new = (
            _similarities(_probe(results, "metacsr", scenario, True, place), seed)
            for seed, scenario in enumerate(("warm", "cold"))
        )
        for kind, one, other in zip(("positive", "negative"), regular, new, strict=True):
            yield f"similarity of {kind} pairs, regular minus new users", one.minus(other), 0

    return _each_seed(results, of_seed)


def hardly_moves(results: Results) -> tuple[Part, ...]:
    """Fine-tuning moves new users' preferences by less than `SMALL_MOVE` of their spread, and by less than without Meta Learner."""

    def of_seed(place: int) -> Iterator[Labelled]:
        own, other = (
            mean_statistic(
                relative_move(
                    *(
                        _probe(results, name, "cold", tuned, place).preference_ND
                        for tuned in (False, True)
                    )
                )
            )
            for name in ("metacsr", WITHOUT_META)
        )
        still = Statistic(SMALL_MOVE - own.value, SMALL_MOVE - own.resampled_R)
        yield f"{SMALL_MOVE:g} minus the mean move, in units of the spread", still, 0
        yield "mean move, without Meta Learner minus with", other.minus(own), 0

    return _each_seed(results, of_seed)


def some_vectors(vector_ND: np.ndarray, most: int = 1000) -> np.ndarray:
    """Distances of all pairs are taken: not more than a thousand vectors, the same ones for equal counts."""
    if len(vector_ND) <= most:
        return vector_ND
    return vector_ND[np.random.default_rng(0).permutation(len(vector_ND))[:most]]


class _NotMeasured(Exception):
    """A probe that a claim needs is not there."""


def _each_seed(results: Results, of_seed: Callable[[int], Iterator[Labelled]]) -> tuple[Part, ...]:
    """The parts of every training seed; () where something was not looked into."""
    seeds: Sequence[int] = results.options.seeds
    try:
        found = [
            (f"{label} (seed {seed})" if len(seeds) > 1 else label, statistic, bound)
            for place, seed in enumerate(seeds)
            for label, statistic, bound in of_seed(place)
        ]
    except _NotMeasured:
        return ()
    return tuple(
        Part(label, Point(*statistic.interval(level(len(found)))), bound)
        for label, statistic, bound in found
    )


def _probe(results: Results, name: str, scenario: str, tuned: bool, place: int) -> Probe:
    """Fine-tuned: at the same number of steps with and without Meta Learner."""
    steps = results.fine_steps if tuned else 0
    return _needed(probes(results, name, scenario, steps, place))


def _needed(found):
    if found is None:
        raise _NotMeasured
    return found


def _similarities(found: Probe, seed: int = 0) -> tuple[Statistic, Statistic]:
    """Means over users of their positive pair, and of their negative ones."""
    positive_N, negative_NC = found.similarity_NC1[:, 0], found.similarity_NC1[:, 1:]
    return mean_statistic(positive_N, seed=seed), mean_statistic(negative_NC.mean(1), seed=seed)


def _share_less(without: Statistic, own: Statistic) -> Statistic:
    """1 - own / without."""
    return Statistic(1 - own.value / without.value, 1 - own.resampled_R / without.resampled_R)
