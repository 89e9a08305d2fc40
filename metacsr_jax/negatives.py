"""Uniform draws from what a user has not touched, exactly and without rejection.

Dimension key: F entries of all rows together, B draws' rows, N draws per row.

A row of n sorted distinct items s_0 < s_1 < ... leaves I - n others. The r-th of them is r + #{j : s_j - j <= r}, and s_j - j never
falls with j, so one binary search turns a uniform rank into a uniform draw from the complement.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.kernels.native import kernel
from metacsr_jax.sorting import unique


class KnownItems(NamedTuple):
    """Rows of sorted distinct item codes in one flat array.

    Attributes:
        gap_F: int32, s_j - j of every entry.
        start_R: int32, where row r begins.
        count_R: int32, its number of entries.
    """

    gap_F: jax.Array
    start_R: jax.Array
    count_R: jax.Array


def known_items(offset_R1: np.ndarray, item_F: np.ndarray) -> KnownItems:
    """Builds the rows from CSR histories (host); repeats inside a row count once."""
    row_F = np.repeat(np.arange(offset_R1.size - 1), np.diff(offset_R1))
    items = int(item_F.max(initial=0)) + 1
    row_F, item_F = np.divmod(unique(row_F * items + item_F), items)
    count_R = np.bincount(row_F, minlength=offset_R1.size - 1)
    start_R = np.concatenate([[0], np.cumsum(count_R)[:-1]])
    gap_F = item_F - (np.arange(row_F.size) - start_R[row_F])
    if gap_F.size == 0:
        gap_F = np.zeros(1)
    return KnownItems(gap_F.astype(np.int32), start_R.astype(np.int32), count_R.astype(np.int32))


def padded_known_items(known_BH: jax.Array, count_B: jax.Array) -> KnownItems:
    """The same from padded rows on the device: the first `count_B` of each row are its sorted distinct items."""
    rows, width = known_BH.shape
    gap_BH = known_BH - jnp.arange(width)[None]
    return KnownItems(
        gap_BH.reshape(-1).astype(jnp.int32),
        jnp.arange(rows, dtype=jnp.int32) * width,
        jnp.asarray(count_B),
    )


def draw_negatives(
    key: jax.Array, known: KnownItems, row_B: jax.Array, num_items: int, num_negatives: int
) -> jax.Array:
    """Draws items outside each row, uniformly and with replacement.

    Args:
        key: consumed.
        known: what each row excludes.
        row_B: which row each sample excludes.
        num_items: I, the catalogue's size; must exceed every row's count.
        num_negatives: N.

    Returns:
        int32 [B, N], codes 0 to I - 1.
    """
    count_B1 = known.count_R[row_B][:, None]
    start_B1 = known.start_R[row_B][:, None]
    rank_BN = jax.random.randint(key, (row_B.shape[0], num_negatives), 0, num_items - count_B1)

    def plain(gap_F, start_B1, count_B1, rank_BN):
        def passed(entry_BN, place_BN):
            del place_BN
            return entry_BN <= rank_BN

        return _search(gap_F, start_B1, count_B1, passed, rank_BN.shape, num_items)

    result = jax.ShapeDtypeStruct(rank_BN.shape, jnp.int32)
    given = (jnp.asarray(known.gap_F), start_B1, count_B1, rank_BN)
    return rank_BN + kernel("RowCount", plain, result, *given)


def is_known(known: KnownItems, row_B: jax.Array, item_BN: jax.Array, num_items: int) -> jax.Array:
    """Whether items are among those of their rows.

    Args:
        known: the rows.
        row_B: which row each line of items is looked up in.
        item_BN: item codes.
        num_items: I.

    Returns:
        bool [B, N].
    """
    count_B1 = known.count_R[row_B][:, None]
    start_B1 = known.start_R[row_B][:, None]

    def smaller(entry_BN, place_BN):
        return entry_BN + place_BN < item_BN

    gap_F = jnp.asarray(known.gap_F)
    low_BN = _search(gap_F, start_B1, count_B1, smaller, item_BN.shape, num_items)
    last = gap_F.shape[0] - 1
    found_BN = gap_F[jnp.minimum(start_B1 + low_BN, last)] + low_BN == item_BN
    return found_BN & (low_BN < count_B1)


def _search(gap_F, start_B1, count_B1, before, shape, num_items):
    """How many entries of each row come `before`, a predicate of a gap and its place that never turns true again."""
    low_BN = jnp.zeros(shape, jnp.int32)  # the number lies in [low, high]
    high_BN = jnp.broadcast_to(count_B1, shape)
    last = gap_F.shape[0] - 1
    longest = min(gap_F.shape[0], num_items)  # a row has at most that many entries

    def halve(_, bounds):
        low_BN, high_BN = bounds
        middle_BN = (low_BN + high_BN) // 2
        below_BN = before(gap_F[jnp.minimum(start_B1 + middle_BN, last)], middle_BN)
        open_BN = low_BN < high_BN
        low_BN = jnp.where(open_BN & below_BN, middle_BN + 1, low_BN)
        return low_BN, jnp.where(open_BN & ~below_BN, middle_BN, high_BN)

    # Written out, the halvings would be fused into one another, each twice: minutes and gigabytes of compiling.
    halvings = max(1, math.ceil(math.log2(longest + 1)))
    return jax.lax.fori_loop(0, halvings, halve, (low_BN, high_BN))[0]
