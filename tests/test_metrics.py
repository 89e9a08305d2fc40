"""Metrics against their formulas, and against what chance gives by enumeration of the ranks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacsr_jax.errors import DataError
from metacsr_jax.evaluation.metrics import METRICS, chance, per_case


def metric(rank: float, others: int, name: str) -> float:
    return per_case(np.array([rank]), np.array([others]))[0, METRICS.index(name)]


def test_names_and_columns_agree():
    assert METRICS[:3] == ("auc", "map", "hit@1") and METRICS[-1] == "ndcg@20"
    assert per_case(np.array([0.0, 3.0]), np.array([9, 9])).shape == (2, len(METRICS))


@pytest.mark.parametrize("rank", [0, 0.5, 2, 9, 9.5, 10, 60.5, 100])
def test_formulas(rank):
    assert metric(rank, 100, "auc") == pytest.approx(1 - rank / 100)
    assert metric(rank, 100, "map") == pytest.approx(1 / (1 + rank))
    for n in range(1, 21):
        assert metric(rank, 100, f"hit@{n}") == (1 if rank < n else 0)
        gain = 1 / math.log2(rank + 2) if rank < n else 0
        assert metric(rank, 100, f"ndcg@{n}") == pytest.approx(gain)


@pytest.mark.parametrize("others", [1, 7, 100, 3532])
def test_constant_scorer_has_half_the_auc(others):
    assert metric(others / 2, others, "auc") == 0.5


def test_chance_is_the_closed_form():
    others = 100
    found = dict(zip(METRICS, chance(others), strict=True))
    candidates = others + 1
    harmonic = sum(1 / k for k in range(1, candidates + 1))
    assert found["auc"] == pytest.approx(0.5)
    assert found["map"] == pytest.approx(harmonic / candidates)
    assert found["hit@10"] == pytest.approx(10 / candidates)
    discounted = sum(1 / math.log2(k + 1) for k in range(1, 11))
    assert found["ndcg@10"] == pytest.approx(discounted / candidates)
    printed = {"auc": 0.500, "map": 0.0515, "hit@10": 0.099, "ndcg@10": 0.045}  # design, section 3
    for name, value in printed.items():
        assert found[name] == pytest.approx(value, abs=5e-4 if name != "map" else 5e-5)


@given(st.integers(1, 200).flatmap(lambda o: st.tuples(st.just(o), st.integers(0, 2 * o))))
def test_bounds_and_monotony(case):
    others, twice = case
    row = per_case(np.array([twice / 2]), np.array([others]))[0]
    assert ((row >= 0) & (row <= 1)).all()
    hit, ndcg = row[2:22], row[22:]
    assert (np.diff(hit) >= 0).all() and (np.diff(ndcg) >= 0).all()
    assert (ndcg <= hit).all()
    if twice:
        better = per_case(np.array([(twice - 1) / 2]), np.array([others]))[0]
        assert (better >= row).all() and better[0] > row[0] and better[1] > row[1]


@pytest.mark.parametrize(
    ("rank", "others", "named"),
    [(-1, 5, "-1.0"), (6, 5, "6.0"), (float("nan"), 5, "nan"), (0, 0, "others >= 1")],
)
def test_impossible_ranks_are_refused(rank, others, named):
    with pytest.raises(DataError, match=f"case 1.*{named}"):
        per_case(np.array([0, rank]), np.array([5, others]))


def test_unequal_lengths_are_refused():
    with pytest.raises(DataError, match=r"\(2,\).*\(3,\)"):
        per_case(np.zeros(2), np.ones(3))
