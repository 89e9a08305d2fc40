"""Beyond the paper: do a hundred negatives order the models as the full catalogue does?

Dimension key: N users, K models, R resamples.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from metacsr_jax.evaluation.significance import resampled_means
from metacsr_jax.reproduce.exhibit import Exhibit, Picture, Table
from metacsr_jax.reproduce.pictures import draw_slopes
from metacsr_jax.reproduce.results import RESAMPLES, Point, Results, point, same_cases, values
from metacsr_jax.reproduce.tables import ordered

HEADER = ("MAP among negatives", "MAP in the full catalogue")


def ranking(results: Results, directory: Path) -> Exhibit:
    """Both rankings of all models, how far they agree, and which pairs they order differently beyond doubt."""
    tables, pictures, text = [], [], []
    for scenario in ("cold", "warm"):
        found = {
            name: [
                values(results, name, "map", scenario, kind) for kind in (results.sampled, "full")
            ]
            for name in ordered(results, scenario, "full")
        }
        body = [[name, *map(point, pair)] for name, pair in found.items()]
        caption = f"{scenario.capitalize()} start."
        tables.append(Table(f"ranking-{scenario}", ["model", *HEADER], body, caption))
        first = next(iter(found), None)
        compared = {
            name: pair
            for name, pair in without_twins(found).items()
            if same_cases(results, first, name, scenario=scenario)
        }
        if len(compared) < 3:
            continue
        sampled_NK, full_NK = (np.stack(of, axis=1) for of in zip(*compared.values(), strict=True))
        tau, turned = agreement(sampled_NK, full_NK)
        names = list(compared)
        lines = [f"{names[one]} and {names[other]}" for one, other in turned]
        text.append(
            f"{scenario.capitalize()}: Kendall's tau between the two orders of {len(names)} models (of models that rank alike one counts) "
            f"is {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}] (1: the same order). Pairs that both rankings tell apart, one way and "
            f"the other: {'; '.join(lines) or 'none'}."
        )
        path = draw_slopes(
            {name: tuple(of.mean() for of in pair) for name, pair in found.items()},
            directory / f"ranking-{scenario}.png",
            HEADER,
        )
        alt = f"Places of the models among negatives and in the full catalogue, {scenario} start"
        pictures.append(Picture(path, alt))
    return Exhibit("ranking", tables, pictures, text)


def without_twins(found: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Only the first of models whose values are all alike, as popularity and repetition are where nothing repeats."""
    kept: dict[str, list[np.ndarray]] = {}
    for name, pair in found.items():
        if not any(
            all(np.array_equal(*of) for of in zip(pair, other, strict=True))
            for other in kept.values()
        ):
            kept[name] = pair
    return kept


def agreement(sampled_NK: np.ndarray, full_NK: np.ndarray) -> tuple[Point, list[tuple[int, int]]]:
    """Kendall's tau of the models' means with its bootstrap interval over users, and the pairs that are ordered differently.

    Args:
        sampled_NK, full_NK: a metric of each user and model under each ranking, on the same users.

    Returns:
        tau, and pairs of columns whose paired differences have opposite signs, with both intervals (95 % each) on one side of 0.
    """
    means = [resampled_means(of, RESAMPLES, 0) for of in (sampled_NK, full_NK)]
    taus_R = [stats.kendalltau(*pair).statistic for pair in zip(*means, strict=True)]
    value = stats.kendalltau(sampled_NK.mean(0), full_NK.mean(0)).statistic
    low, high = np.quantile(taus_R, [0.025, 0.975])
    turned = []
    for one, other in combinations(range(sampled_NK.shape[1]), 2):
        ends = [np.quantile(of[:, one] - of[:, other], [0.025, 0.975]) for of in means]
        signs = [np.sign(low_) if np.sign(low_) == np.sign(high_) else 0 for low_, high_ in ends]
        if signs[0] * signs[1] < 0:
            turned.append((one, other))
    return Point(float(value), min(float(low), value), max(float(high), value)), turned
