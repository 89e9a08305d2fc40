"""Ranks against a count in plain Python, on hand-made ties and on batches of any size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.errors import DataError, NonFiniteError
from metacsr_jax.evaluation import ranking
from metacsr_jax.evaluation.ranking import rank_cases, rank_full, rank_sampled

ITEMS, C = 11, 4  # C negatives


class Cases(NamedTuple):
    user_N: np.ndarray
    offset_N1: np.ndarray
    item_H: np.ndarray
    target_N: np.ndarray
    time_N: np.ndarray
    negative_NC: np.ndarray
    seen_N: np.ndarray
    repeat_N: np.ndarray


class Batch(NamedTuple):
    row_B: np.ndarray


def make_cases(count: int, seed: int = 0) -> Cases:
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 6, count)
    target = rng.integers(0, ITEMS, count)
    others = [rng.permutation(np.delete(np.arange(ITEMS), t))[:C] for t in target]
    return Cases(
        user_N=np.arange(100, 100 + count, dtype=np.int32),
        offset_N1=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        item_H=rng.integers(0, ITEMS, length.sum()).astype(np.int32),
        target_N=target.astype(np.int32),
        time_N=np.zeros(count, np.int64),
        negative_NC=np.array(others, np.int32).reshape(count, C),
        seen_N=np.ones(count, bool),
        repeat_N=np.zeros(count, bool),
    )


def plain_rank(score_I, target, candidates) -> float:
    greater = sum(score_I[item] > score_I[target] for item in candidates)
    equal = sum(score_I[item] == score_I[target] for item in candidates)
    return greater + equal / 2


def tied_scores(count: int, seed: int = 1) -> np.ndarray:
    """Scores with many ties."""
    return np.random.default_rng(seed).integers(-2, 3, (count, ITEMS)).astype(np.float32)


def run(cases, score_NI, batch, mask_seen=True, pad=False):
    def batches(start, stop):
        rows = np.arange(start, start + batch if pad else stop)
        return Batch(np.minimum(rows, len(score_NI) - 1))

    table = jax.device_put(score_NI)
    score = jax.jit(lambda inputs, steps: table[inputs.row_B] + steps, static_argnums=1)
    return rank_cases(score, cases, batches, 0, mask_seen, batch)


def test_hand_made_table():
    score = jnp.array([[3.0, 1.0, 2.0, 2.0, 0.0, 2.0]])
    target = jnp.array([2], jnp.int32)
    sampled = rank_sampled(score, target, jnp.array([[0, 1, 3]], jnp.int32))
    assert sampled.tolist() == [1 + 1 / 2]  # item 0 above, item 3 beside
    history = jnp.array([[0, 0, 2, 4]], jnp.int32)  # item 0 twice, and the target itself
    rank, others = rank_full(score, target, history, jnp.ones((1, 4), bool))
    assert rank.tolist() == [2 / 2]  # items 3 and 5 beside; item 0 is masked
    assert others.tolist() == [6 - 1 - 2]  # without the target, without items 0 and 4
    rank, others = rank_full(score, target, history, jnp.zeros((1, 4), bool))
    assert (rank.tolist(), others.tolist()) == ([1 + 2 / 2], [6 - 1])


def test_constant_scorer_stands_in_the_middle():
    cases = make_cases(7)
    found = run(cases, np.zeros((7, ITEMS), np.float32), 3)
    for ranks in found.values():
        np.testing.assert_array_equal(ranks.rank_N, ranks.others_N / 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_agrees_with_plain_python(seed, mask_seen):
    cases, score_NI = make_cases(5, seed), tied_scores(5, seed)
    found = run(cases, score_NI, 2, mask_seen)
    assert list(found) == [f"sampled-{C}", "full"]
    for case, target in enumerate(cases.target_N):
        history = cases.item_H[cases.offset_N1[case] : cases.offset_N1[case + 1]]
        hidden = set(history.tolist()) if mask_seen else set()
        candidates = set(range(ITEMS)) - hidden - {int(target)}
        score_I = score_NI[case]
        full, sampled = found["full"], found[f"sampled-{C}"]
        assert full.rank_N[case] == plain_rank(score_I, target, candidates)
        assert full.others_N[case] == len(candidates)
        assert sampled.rank_N[case] == plain_rank(score_I, target, cases.negative_NC[case])
        assert sampled.others_N[case] == C


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 7, 20])
def test_batch_size_and_padding_change_nothing(batch, pad):
    cases, score_NI = make_cases(7), tied_scores(7)
    one, other = run(cases, score_NI, 4), run(cases, score_NI, batch, pad=pad)
    for name in one:
        np.testing.assert_array_equal(one[name].rank_N, other[name].rank_N)
        np.testing.assert_array_equal(one[name].others_N, other[name].others_N)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(ITEMS)))
def test_names_of_the_items_do_not_matter(order):
    score = tied_scores(3)
    target, negative = np.array([1, 5, 5]), np.array([[0, 2, 3]] * 3)
    mask = np.array([[True, True, False]] * 3)
    place = np.empty(ITEMS, np.int64)
    place[list(order)] = np.arange(ITEMS)
    one = rank_full(score, target, negative, mask)
    other = rank_full(score[:, list(order)], place[target], place[negative], mask)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        rank_sampled(score, target, negative),
        rank_sampled(score[:, list(order)], place[target], place[negative]),
    )


def test_transfers_are_explicit_and_nothing_compiles_twice():
    cases, score_NI = make_cases(10), tied_scores(10)
    run(cases, score_NI, 4)
    before = ranking._rank_batch._cache_size()
    table, traced = jax.device_put(score_NI), []

    def model(inputs, steps):
        traced.append(steps)
        return table[inputs.row_B]

    score = jax.jit(model, static_argnums=1)
    with jax.transfer_guard("disallow"):
        rank_cases(score, cases, lambda a, b: Batch(np.arange(a, b)), 1, True, 4)
    assert traced == [1]
    assert ranking._rank_batch._cache_size() == before


def test_numpy_scorer():
    cases, score_NI = make_cases(6), tied_scores(6)

    def score(inputs, steps):
        return score_NI[jax.device_get(inputs.row_B)]

    with jax.transfer_guard("disallow"):
        found = rank_cases(score, cases, lambda a, b: Batch(np.arange(a, b)), 0, True, 4)
    wanted = run(cases, score_NI, 4)
    np.testing.assert_array_equal(found["full"].rank_N, wanted["full"].rank_N)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_name_the_case(bad):
    cases, score_NI = make_cases(8), tied_scores(8)
    score_NI[5, [2, 3]] = bad
    with pytest.raises(NonFiniteError, match=r"case 5 \(user code 105.*has 2 scores"):
        run(cases, score_NI, 3)


def test_wrong_shapes_and_codes_are_refused():
    cases, score_NI = make_cases(4), tied_scores(4)
    with pytest.raises(DataError, match=r"\[4, 1, 11\]"):
        run(cases, score_NI[:, None], 4)
    with pytest.raises(DataError, match=r"batch is 0"):
        run(cases, score_NI, 0)
    for field in ("target_N", "negative_NC", "item_H"):
        wrong = getattr(cases, field).copy()
        wrong.flat[0] = ITEMS
        with pytest.raises(
            DataError, match=rf"{field} holds item codes .*\.\.{ITEMS}; expected 0\.\.{ITEMS - 1}"
        ):
            run(cases._replace(**{field: wrong}), score_NI, 4)


def test_no_case_gives_no_rank():
    found = run(make_cases(0), tied_scores(1), 4)
    assert [len(ranks.rank_N) for ranks in found.values()] == [0, 0]
