"""What decides the claims about Tables 3 to 5 and Figures 3 to 5 and 12: differences with intervals, from the numbers on the page.

The intervals of the k parts of a claim hold together with 95 %: each is one at 1 - .05 / k (Bonferroni).
"""

from collections.abc import Sequence
from typing import NamedTuple

from metacsr_jax.report.paper import RIVALS
from metacsr_jax.reproduce.plan import (
    WITH_MEAN,
    WITHOUT_DIFFUSION,
    WITHOUT_META,
    length_name,
    share_name,
)
from metacsr_jax.reproduce.results import Point, Results, differences, same_cases, values

CLOSE = 0.005  # of AUC or MAP: as good as no change
DATA = (0.25, 0.85)  # shares of the data that the paper finds to suffice (figure 5)
CUTOFFS = ("hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20")
SIMPLE_META = ("melu", "metacs-l", "metacs-dnn")
FEATURE_WISE_LOGS = ("movielens-1m", "lastfm-1week")  # on which the paper says CSAN to be good


class Part(NamedTuple):
    """What a claim says to be above a bound, with its interval.

    Attributes:
        label: what it is.
        point: the value and its interval.
        bound: what it has to be above.
        runs: whose trainings it compares.
        group: parts of one alternative.
        even: those trainings were cut to like shares of their lengths.
    """

    label: str
    point: Point
    bound: float = 0.0
    runs: tuple[str, ...] = ()
    group: str = ""
    even: bool = True


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
        among: so many times as many parts has the claim: the intervals hold together for all of them.
    """
    there = [name for name in others if same_cases(results, one, name, scenario=scenario)]
    asked = [(metric, name) for metric in metrics for name in there]
    pairs = [
        tuple(values(results, of, metric, scenario) for of in (one, name)) for metric, name in asked
    ]
    found = differences(pairs, level(len(asked) * among))
    return tuple(
        Part(f"{_name(metric)}, {one} minus {name}", point, runs=(one, name))
        for (metric, name), point in zip(asked, found, strict=True)
    )


def ahead_of_all(results: Results, scenario: str) -> tuple[Part, ...]:
    """metaCSR above every other model of tables 3 and 4."""
    others = [name for name in results.options.models if name != "metacsr"]
    return ahead(results, "metacsr", others, scenario)


def bpr_is_worst(results: Results) -> tuple[Part, ...]:
    """Each other baseline above BPR."""
    others = [name for name in RIVALS if name != "bpr"]
    return tuple(
        part
        for name in others
        for part in ahead(results, name, ("bpr",), "cold", among=len(others))
    )


def csan_over_lstm(results: Results) -> tuple[Part, ...]:
    """CSAN above LSTM, cold and warm."""
    return _both_starts(results, "csan", ("lstm",))


def best_baselines(results: Results) -> tuple[Part, ...]:
    """SML and MetaCF, each above each of the paper's other baselines.

    Not the better of the two above the best of the others: picked by results, the highest of many noisy means is too high.
    """
    leaders = ("sml", "metacf-ngcf")
    others = [name for name in RIVALS if name not in leaders]
    return tuple(
        part
        for name in leaders
        for part in ahead(results, name, others, "cold", among=len(leaders))
    )


def part_of_the_data(results: Results) -> tuple[Part, ...]:
    """With a share of the users in `DATA`, metaCSR is not more than `CLOSE` below any of the paper's baselines with all of them."""
    shares = [
        share
        for share in results.options.shares
        if DATA[0] <= share <= DATA[1] and results.has(share_name(share))
    ]
    return tuple(
        part._replace(bound=-CLOSE, group=share_name(share))
        for share in shares
        for part in ahead(results, share_name(share), RIVALS, "cold", among=len(shares))
    )


def components_pay(results: Results) -> tuple[Part, ...]:
    """metaCSR above itself without each component."""
    others = (WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META)
    return ahead(results, "metacsr", others, "cold", ("auc",))


def meta_pays_most(results: Results) -> tuple[Part, ...]:
    """Without the Meta Learner it is worse than without either of the others."""
    others = (WITHOUT_DIFFUSION, WITH_MEAN)
    return tuple(
        part
        for other in others
        for part in ahead(results, other, (WITHOUT_META,), "cold", ("auc",), among=len(others))
    )


def ten_is_best(results: Results) -> tuple[Part, ...]:
    """T = 10 above every other T, cold and warm."""
    own = length_name(results.options, 10)
    others = [
        length_name(results.options, length) for length in results.options.lengths if length != 10
    ]
    return _both_starts(results, own, others)


def _both_starts(results: Results, one: str, others: Sequence[str]) -> tuple[Part, ...]:
    return tuple(
        part._replace(label=f"{part.label}, {scenario}")
        for scenario in ("cold", "warm")
        for part in ahead(results, one, others, scenario, among=2)
    )


def _name(metric: str) -> str:
    return metric.upper() if metric in ("auc", "map") else metric
