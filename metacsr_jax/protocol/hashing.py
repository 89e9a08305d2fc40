"""Seeded hashes: every random choice of the protocol, independent of file order and of other users.

Axes: X ids, W characters. All arithmetic is modulo 2**64.
"""

import zlib

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(value: np.ndarray) -> np.ndarray:
    """One step of splitmix64 (Steele, Lea and Flood 2014) on a uint64 array (not a scalar)."""
    mixed = value + _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def hash_key(seed: int, purpose: str) -> np.ndarray:
    """The uint64 key, shape [1], of one purpose ("ties", "negatives/cold", ...) under a seed."""
    seed_1 = np.array([seed & _MASK], np.uint64)
    return mix(mix(seed_1) ^ np.uint64(zlib.crc32(purpose.encode())))


def hash_ids(ids_X: np.ndarray) -> np.ndarray:
    """Hashes original ids, so that what is drawn for an id does not depend on its code.

    Args:
        ids_X: int64 or str, shape [X]; the width of a str array does not matter.

    Returns:
        uint64, shape [X].
    """
    if ids_X.dtype.kind != "U":
        return mix(ids_X.astype(np.int64).view(np.uint64))
    width = ids_X.dtype.itemsize // 4
    character_XW = np.ascontiguousarray(ids_X).view(np.uint32).reshape(len(ids_X), width)
    hash_X = np.zeros(len(ids_X), np.uint64)
    for character_X in character_XW.T:  # columns of padding (0) leave the hash as it is
        present_X = character_X != 0
        hash_X[present_X] = mix(hash_X[present_X] ^ character_X[present_X].astype(np.uint64))
    return hash_X


def below(hash_X: np.ndarray, bound_X: np.ndarray | int) -> np.ndarray:
    """Maps uint64 hashes to int64 integers in [0, bound); bound is at most 2**31."""
    bound = np.asarray(bound_X, np.uint64)
    return (((hash_X >> np.uint64(32)) * bound) >> np.uint64(32)).astype(np.int64)
