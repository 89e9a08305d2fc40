"""Histories as device batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacsr_jax.cases import case_batch, pad_batch, windows


def csr(histories):
    offset_N1 = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    return offset_N1, np.array([item for h in histories for item in h], np.int32)


def unpadded(context_L, length):
    """The events of a context, and a check that only zeros stand before them."""
    assert not context_L[: len(context_L) - length].any()
    return context_L[len(context_L) - length :].tolist()


def test_by_hand():
    batch = case_batch(*csr([[5, 6, 7, 8, 9], [4], [], [3, 2]]), max_length=3, max_support=2)
    assert batch.context_BL.tolist() == [[7, 8, 9], [0, 0, 4], [0, 0, 0], [0, 3, 2]]
    assert batch.length_B.tolist() == [3, 1, 0, 2]
    assert batch.support_context_BKL[0].tolist() == [[5, 6, 7], [6, 7, 8]]
    assert batch.support_target_BK.tolist() == [[8, 9], [0, 0], [0, 0], [0, 2]]
    assert batch.support_mask_BK.tolist() == [[True, True], [False] * 2, [False] * 2, [False, True]]
    assert batch.support_context_BKL[3].tolist() == [[0, 0, 0], [0, 0, 3]]
    assert batch.support_length_BK.tolist() == [[3, 3], [0, 0], [0, 0], [0, 1]]
    assert batch.known_BH.tolist() == [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0], [0] * 5, [2, 3, 0, 0, 0]]
    assert batch.known_count_B.tolist() == [5, 1, 0, 2]
    dtypes = {name: field.dtype for name, field in batch._asdict().items()}
    assert dtypes.pop("support_mask_BK") == np.dtype(bool) and dtypes.pop("seed_B") == np.uint32
    assert set(dtypes.values()) == {np.dtype(np.int32)}


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(1, 5),
)
def test_against_a_loop(histories, max_length, max_support):
    batch = case_batch(*csr(histories), max_length, max_support)
    for row, history in enumerate(histories):
        context = unpadded(batch.context_BL[row], batch.length_B[row])
        assert context == history[-max_length:]
        # Targets are events of the history with an event before them, the latest ones, and never what comes next.
        places = range(max(1, len(history) - max_support), len(history))
        reach = batch.history_BH.shape[1]
        assert reach in (max_support + 1, max_support + max_length)
        assert unpadded(batch.history_BH[row], batch.events_B[row]) == history[-reach:]
        seen = set(context)
        assert batch.support_mask_BK[row].sum() == len(places)
        for k, place in zip(np.flatnonzero(batch.support_mask_BK[row]), places, strict=True):
            sample = unpadded(batch.support_context_BKL[row, k], batch.support_length_BK[row, k])
            assert sample == history[:place][-max_length:]
            window = batch.history_BH[row, : reach - max_support + k][-max_length:]
            assert window[len(window) - len(sample) :].tolist() == sample
            assert batch.support_target_BK[row, k] == history[place]
            seen |= {*sample, history[place]}
        count = batch.known_count_B[row]
        assert batch.known_BH[row, :count].tolist() == sorted(seen)
        assert not batch.known_BH[row, count:].any()
        off = ~batch.support_mask_BK[row]
        assert (
            not batch.support_target_BK[row][off].any()
            and not batch.support_length_BK[row][off].any()
        )


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=5), st.randoms())
def test_a_user_is_the_same_in_any_batch(histories, random):
    order = list(range(len(histories)))
    random.shuffle(order)
    together = case_batch(*csr(histories), 4, 3)
    shuffled = case_batch(*csr([histories[row] for row in order]), 4, 3)
    for one, other in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(one[order], other)
    alone = case_batch(*csr(histories[-1:]), 4, 3)
    reach = alone.history_BH.shape[1]  # further back only where another user of the batch needs it
    assert not together.history_BH[-1, :-reach].any()
    together = together._replace(history_BH=together.history_BH[:, -reach:])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one[-1:], other)


def test_the_seed_is_a_function_of_the_history():
    histories = [[1, 2], [2, 1], [1, 2, 3], [1], [], [0], [0, 0], [1, 2]]
    seed_B = case_batch(*csr(histories), 4, 3).seed_B.tolist()
    assert seed_B[0] == seed_B[-1]
    assert len(set(seed_B)) == len(histories) - 1


@pytest.mark.parametrize("histories", [[], [[]], [[], []]])
def test_nobody_and_nothing(histories):
    batch = case_batch(*csr(histories), 3, 2)
    assert batch.context_BL.shape == (len(histories), 3)
    assert not batch.support_mask_BK.any() and not batch.length_B.any()


def test_windows_stop_at_the_start_and_at_the_end():
    item_H = np.array([9, 8, 7, 6, 5], np.int32)
    window_WL, length_W = windows(item_H, np.array([0, 2, 4]), np.array([2, 5, 4]), 2)
    assert window_WL.tolist() == [[9, 8], [6, 5], [0, 0]]
    assert length_W.tolist() == [2, 2, 0]


def test_padding_a_batch_appends_empty_users():
    batch = case_batch(*csr([[1, 2, 3], [4, 5]]), 3, 2)
    padded = pad_batch(batch, 5)
    for one, other in zip(batch, padded, strict=True):
        assert other.shape == (5, *one.shape[1:]) and other.dtype == one.dtype
        np.testing.assert_array_equal(other[:2], one)
        assert not other[2:].any()
