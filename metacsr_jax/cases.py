"""Histories of users to be served, as device batches: context, support samples, negatives' seed.

Evaluation and recommendation build their batches here, from the same histories, so that their scores agree.

Dimension key: B users, L = max_length positions, K support samples, H known items, N cases.
"""

from typing import NamedTuple

import jax
import numpy as np


class CaseBatch(NamedTuple):
    """What a model may see of B users.

    Attributes:
        context_BL: int32, the latest L events, left-padded with 0.
        length_B: int32, how many of them are real; 0: nothing is known.
        history_BH: int32, the latest events, left-padded with 0: as many as support and its contexts reach back to, L + K, or K + 1
            where no user has more.
        events_B: int32, how many of them are real.
        support_context_BKL: int32, contexts of the support samples, left-padded with 0.
        support_length_BK: int32.
        support_target_BK: int32, the event that followed each context.
        support_mask_BK: bool, False where a user has fewer than K samples.
        known_BH: int32, sorted distinct items of context and support, then zeros: what negatives exclude.
        known_count_B: int32.
        seed_B: uint32, a hash of context and support targets: the same ones draw the same negatives
            wherever they are served.
        user_B: int32, row among the regular users whose events were trained on; -1: a user that training does not know.
    """

    context_BL: jax.Array
    length_B: jax.Array
    history_BH: jax.Array
    events_B: jax.Array
    support_context_BKL: jax.Array
    support_length_BK: jax.Array
    support_target_BK: jax.Array
    support_mask_BK: jax.Array
    known_BH: jax.Array
    known_count_B: jax.Array
    seed_B: jax.Array
    user_B: jax.Array


def case_batch(
    offset_N1: np.ndarray,
    item_H: np.ndarray,
    max_length: int,
    max_support: int,
    user_N: np.ndarray | None = None,
) -> CaseBatch:
    """Builds a batch from CSR histories, all vectorised on the host.

    The support samples of a history b_1..b_n are the windows whose targets are its latest `max_support` events: for a new user with at
    most `max_support` + 1 events those are all its prefixes, for a regular one the windows just before the held-out event.

    Args:
        offset_N1: int64, where each user's history begins and ends in `item_H`.
        item_H: int32 item codes, in the order of events; held-out targets are not among them.
        max_length: L.
        max_support: K.
        user_N: int32 rows of the users that training knows, -1 for others; None: it knows nobody.

    Returns:
        NumPy arrays in a `CaseBatch`.
    """
    item_H = np.asarray(item_H, np.int32)
    end_N = offset_N1[1:].astype(np.int64)
    start_N = offset_N1[:-1].astype(np.int64)
    context_NL, length_N = windows(item_H, start_N, end_N, max_length)
    reach = max_length + max_support
    if (end_N - start_N).max(initial=0) <= max_support + 1:
        reach = max_support + 1
    history_NH, events_N = windows(item_H, start_N, end_N, reach)
    target_NK = end_N[:, None] - 1 - np.arange(max_support)[::-1][None, :]
    mask_NK = target_NK > start_N[:, None]  # a target needs an event before it
    safe_NK = np.where(mask_NK, target_NK, start_N[:, None])
    flat_context, flat_length = windows(
        item_H, np.repeat(start_N, max_support), safe_NK.reshape(-1), max_length
    )
    count = end_N.size
    context_NKL = flat_context.reshape(count, max_support, max_length)
    length_NK = flat_length.reshape(count, max_support)
    support_NK = np.where(mask_NK, _take(item_H, safe_NK), 0).astype(np.int32)
    known_NH, known_count_N = _known(context_NL, length_N, context_NKL, length_NK)
    return CaseBatch(
        context_NL,
        length_N,
        history_NH,
        events_N,
        context_NKL,
        length_NK,
        support_NK,
        mask_NK,
        known_NH,
        known_count_N,
        _history_hash(context_NL, length_N, support_NK),
        np.full(count, -1, np.int32) if user_N is None else user_N,
    )


def windows(
    item_H: np.ndarray, start_W: np.ndarray, end_W: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The latest `max_length` events before `end`, not reaching before `start`, left-padded with 0.

    Args:
        item_H: int32 events of all users.
        start_W: first event a window may hold.
        end_W: one past its last event.
        max_length: L.

    Returns:
        int32 windows [W, L] and their lengths [W].
    """
    position_WL = end_W[:, None] - max_length + np.arange(max_length)[None, :]
    real_WL = position_WL >= start_W[:, None]
    window_WL = np.where(real_WL, _take(item_H, np.where(real_WL, position_WL, 0)), 0)
    return window_WL.astype(np.int32), real_WL.sum(axis=1).astype(np.int32)


def pad_batch(batch: CaseBatch, size: int) -> CaseBatch:
    """Appends empty users until there are `size`, so that every batch has one shape."""

    def grow(array):
        missing = size - array.shape[0]
        return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

    return CaseBatch(*(grow(array) for array in batch))


def _take(item_H: np.ndarray, position: np.ndarray) -> np.ndarray:
    if item_H.size == 0:
        return np.zeros(position.shape, np.int32)
    return item_H[np.clip(position, 0, item_H.size - 1)]


def _known(context_NL, length_N, context_NKL, length_NK):
    max_length = context_NL.shape[1]
    place_L = np.arange(max_length)
    large = np.iinfo(np.int32).max
    own = np.where(place_L >= max_length - length_N[:, None], context_NL, large)
    support = np.where(place_L >= max_length - length_NK[..., None], context_NKL, large)
    # Of each support context only the newest and the oldest event can be new to the union with its neighbours' windows,
    # but a full sort is cheap at these sizes.
    support = support.reshape(
        own.shape[0], np.prod(support.shape[1:], dtype=int)
    )  # -1 fails on no users
    known = np.sort(np.concatenate([own, support], axis=1), axis=1)
    known[:, 1:][known[:, 1:] == known[:, :-1]] = large
    known = np.sort(known, axis=1)
    width = max_length + context_NKL.shape[1]
    known_NH = known[:, :width]
    count_N = (known_NH != large).sum(axis=1).astype(np.int32)
    return np.where(known_NH == large, 0, known_NH).astype(np.int32), count_N


def _history_hash(context_NL, length_N, support_NK):
    words = np.concatenate([length_N[:, None], context_NL, support_NK], axis=1).astype(np.uint64)
    state = np.full(words.shape[0], 0x9E3779B97F4A7C15, np.uint64)
    for column in words.T:
        state = (state ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(29)
    return (state >> np.uint64(32)).astype(np.uint32)
