"""Frozen negatives: per case, distinct items that its user never touched.

Axes: N cases, C negatives per case, S (case, item) pairs that the users touched, D draws so far.
"""

import numpy as np

from metacsr_jax.errors import ProtocolError
from metacsr_jax.protocol.hashing import below, hash_key, mix

_CHUNK = 4096  # cases at once, so that the draws stay in cache


def draw_negatives(
    pair_S: np.ndarray,
    user_hash_N: np.ndarray,
    user_ids_N: np.ndarray,
    *,
    num_items: int,
    num_negatives: int,
    seed: int,
    scenario: str,
) -> np.ndarray:
    """Draws, for each case, a uniform subset of the items its user never touched.

    The draw of a case depends on the seed, the scenario, its user's id and the touched items alone.

    Args:
        pair_S: int64 `case * num_items + item` of all touched items, sorted, unique.
        user_hash_N: uint64 hash of each case's user id.
        user_ids_N: original ids, for the error message.
        num_items: I, size of the catalogue.
        num_negatives: C, at least 1.
        seed: of the protocol.
        scenario: "cold", "warm" or "validation".

    Returns:
        int32 item codes, shape [N, C], ascending per row.

    Raises:
        ProtocolError: a user has fewer than `num_negatives` untouched items.
    """
    cases = len(user_hash_N)
    case_S = pair_S // num_items
    start_N1 = np.searchsorted(case_S, np.arange(cases + 1))
    free_N = num_items - np.diff(start_N1)
    if cases and free_N.min() < num_negatives:
        short = int(free_N.argmin())
        raise ProtocolError(
            f"protocol.num_negatives={num_negatives} ({scenario}): user {user_ids_N[short]!s} left"
            f" {free_N[short]} of {num_items} items untouched; expected at least {num_negatives}, or a smaller protocol.num_negatives"
        )
    # The k-th free item of a case is k + j, where j counts the touched items f_0 < f_1 < ... with
    # f_j - j <= k. Shifted by case * (I + 1), the f_j - j of all cases are one ascending array.
    shifted_S = pair_S % num_items - (np.arange(len(pair_S)) - start_N1[case_S])
    shifted_S += case_S * (num_items + 1)
    del case_S
    key_N = mix(user_hash_N ^ hash_key(seed, f"negatives/{scenario}"))
    negative_NC = np.empty((cases, num_negatives), np.int32)
    for start in range(0, cases, _CHUNK):  # millions of cases: only what is kept is ever whole
        part = slice(start, start + _CHUNK)
        offset_nC = _distinct_offsets(key_N[part], free_N[part], num_negatives)
        case_n1 = np.arange(cases)[part, None]
        query_nC = offset_nC + case_n1 * (num_items + 1)
        before_nC = np.searchsorted(shifted_S, query_nC.ravel(), side="right")
        before_nC = before_nC.reshape(query_nC.shape) - start_N1[:-1][part, None]
        negative_NC[part] = offset_nC + before_nC
    return negative_NC


def _distinct_offsets(hash_n: np.ndarray, free_n: np.ndarray, num_negatives: int) -> np.ndarray:
    """A uniform subset of `range(free)` per case, sorted, by Floyd's algorithm (Bentley 1987).

    Draw d takes t uniform in [0, free - C + d] or, where t is taken, free - C + d itself: C rounds,
    no rejection.
    """
    last_n = free_n - num_negatives
    chosen_Dn = np.empty((num_negatives, len(hash_n)), np.int32)
    for draw in range(num_negatives):
        hash_n = mix(hash_n)
        pick_n = below(hash_n, last_n + 1)
        taken_n = (chosen_Dn[:draw] == pick_n.astype(np.int32)).any(axis=0)
        chosen_Dn[draw] = np.where(taken_n, last_n, pick_n)
        last_n = last_n + 1
    return np.sort(chosen_Dn.T, axis=1).astype(np.int64)
