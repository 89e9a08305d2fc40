"""Negatives: never a known item, every other one with the same probability."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.negatives import draw_negatives, known_items, padded_known_items

NUM_ITEMS, ROWS, EVENTS = 7, 4, 12  # fixed, so that all examples share one compiled program


def csr(histories):
    offset_R1 = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    return offset_R1, np.array([item for h in histories for item in h], np.int32)


def excess(count, probability=None):
    """Chi-square of counts against equal shares, in standard deviations above its mean."""
    expected = count.sum() / count.size if probability is None else count.sum() * probability
    freedom = count.size - 1
    return (((count - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


@settings(max_examples=40)
@given(st.lists(st.integers(0, NUM_ITEMS - 2), min_size=EVENTS, max_size=EVENTS), st.data())
def test_draws_are_exactly_what_a_row_does_not_hold(item_E, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, EVENTS), min_size=ROWS - 1, max_size=ROWS - 1)))
    histories = np.split(np.array(item_E), cuts)
    known = known_items(*csr(histories))
    known = known._replace(gap_F=np.pad(known.gap_F, (0, EVENTS - known.gap_F.size)))
    draw = jax.jit(draw_negatives, static_argnums=(3, 4))
    drawn_BN = np.asarray(draw(jax.random.key(0), known, jnp.arange(ROWS), NUM_ITEMS, 300))
    for history, drawn in zip(histories, drawn_BN, strict=True):
        # 300 draws miss one of at most 7 items with a probability below 1e-19.
        assert set(drawn.tolist()) == set(range(NUM_ITEMS)) - set(history.tolist())


def test_draws_are_uniform_over_the_complement():
    histories = [[3, 3, 0, 49], [], list(range(0, 50, 2)), list(range(10, 48))]
    known = known_items(*csr(histories))
    drawn_BN = np.asarray(draw_negatives(jax.random.key(1), known, jnp.arange(4), 50, 40_000))
    for history, drawn in zip(histories, drawn_BN, strict=True):
        count = np.bincount(drawn, minlength=50)
        assert not count[history].any()
        assert abs(excess(np.delete(count, sorted(set(history))))) < 5


def test_the_only_item_left_is_always_drawn():
    known = known_items(*csr([[0, 1, 2, 4, 5]]))
    drawn_BN = draw_negatives(jax.random.key(0), known, jnp.zeros(3, int), 6, 20)
    assert set(np.asarray(drawn_BN).ravel().tolist()) == {3}


def test_rows_are_named_by_the_caller_and_the_key_decides():
    known = known_items(*csr([[0, 1], [2, 3, 4]]))
    row_B = jnp.array([1, 0, 1, 1])
    one, again, other = (
        np.asarray(draw_negatives(jax.random.key(seed), known, row_B, 5, 50)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one[2] != one[3]).any()
    assert [set(row.tolist()) for row in one] == [{0, 1}, {2, 3, 4}, {0, 1}, {0, 1}]


def test_padded_rows_draw_what_flat_rows_draw():
    histories = [[1, 4], [], [0, 2, 3]]
    padded_BH = np.zeros((3, 6), np.int32)
    for row, history in enumerate(histories):
        padded_BH[row, : len(history)] = history
    padded = padded_known_items(jnp.asarray(padded_BH), jnp.array([2, 0, 3]))
    flat = known_items(*csr(histories))
    drawn = [
        draw_negatives(jax.random.key(3), known, jnp.arange(3), NUM_ITEMS, 64)
        for known in (padded, flat)
    ]
    np.testing.assert_array_equal(*drawn)
