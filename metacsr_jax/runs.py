"""Sequences of several lengths in one array, without padding: what the paper's encoder computes on.

A batch of S left-padded sequences comes in runs, the shorter ones first. Their positions, tokens, lie in stairs: the latest positions,
which every sequence has, sequence by sequence; then the positions before these, of all sequences that have them; and so on. So tokens
that one product with rows of W6 reads lie side by side. Pairs of positions [m, n] lie sequence by sequence.

Dimension key: S sequences, L positions of one, P tokens, Q pairs.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Run(NamedTuple):
    """Sequences in a row that are known to be short.

    Attributes:
        count: how many.
        longest: positions that none of them has more of, at least 1; no fewer than in the run before.
    """

    count: int
    longest: int


class Stair(NamedTuple):
    """Positions that the same sequences have.

    Attributes:
        first: the sequences from this one on.
        near, far: the positions from `far` before the end to, but without, `near` before the end.
    """

    first: int
    near: int
    far: int


@jax.tree_util.register_static
class Runs(tuple[Run, ...]):
    """Consecutive runs, which a program may rely on: not arrays, but part of their type.

    Raises:
        ValueError: there are none, a count is negative, or the lengths are not 1 or more and in order.
    """

    def __new__(cls, runs: Iterable[Run]) -> "Runs":
        """Checked here, because a kernel does not look."""
        self = super().__new__(cls, runs)
        lengths = [longest for _, longest in self]
        ordered = lengths == sorted(lengths) and all(length >= 1 for length in lengths)
        if not self or not ordered or any(count < 0 for count, _ in self):
            raise ValueError(
                f"runs {tuple(self)}: expected some, of 1 or more positions, shorter ones first"
            )
        return self

    @property
    def sequences(self) -> int:
        """S."""
        return sum(run.count for run in self)

    @property
    def tokens(self) -> int:
        """P."""
        return sum(run.count * run.longest for run in self)

    @property
    def pairs(self) -> int:
        """Q."""
        return sum(run.count * run.longest**2 for run in self)

    @property
    def longest(self) -> int:
        """Positions of the longest sequences."""
        return self[-1].longest

    @property
    def stairs(self) -> list[Stair]:
        """From the latest positions on."""
        start, known, stairs = 0, 0, []
        for count, longest in self:
            if longest > known:
                stairs.append(Stair(start, known, longest))
            start, known = start + count, longest
        return stairs

    def merged(self, most: int) -> "Runs":
        """Up to so many runs of the same sequences: fewer, and more padding."""
        size = -(-len(self) // most)
        groups = [self[start : start + size] for start in range(0, len(self), size)]
        return Runs(Run(sum(run.count for run in group), group[-1].longest) for group in groups)

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        """What a kernel has to know."""
        counts, longest = zip(*self, strict=True)
        return {"counts": np.asarray(counts), "longest": np.asarray(longest)}


def evenly(count: int, length: int) -> Runs:
    """Sequences of one length: tokens are [count, length] row by row, pairs [count, length, length]."""
    return Runs([Run(count, length)])


def tokens_of(x_SL: jax.Array, runs: Runs) -> jax.Array:
    """The tokens [P, ...] of left-padded sequences [S, L, ...]."""
    length, rest = x_SL.shape[1], x_SL.shape[2:]
    return _joined(
        x_SL[stair.first :, length - stair.far : length - stair.near].reshape(-1, *rest)
        for stair in runs.stairs
    )


def blocks_of(x_P: jax.Array, runs: Runs) -> list[jax.Array]:
    """The tokens of each stair [sequences, positions, ...]."""
    sizes = [(runs.sequences - stair.first, stair.far - stair.near) for stair in runs.stairs]
    parts = jax.lax.split(x_P, [count * width for count, width in sizes])
    return [p.reshape(*size, *p.shape[1:]) for p, size in zip(parts, sizes, strict=True)]


def padded(x_P: jax.Array, runs: Runs, length: int) -> jax.Array:
    """The sequences [S, L, ...] of tokens, left-padded with zeros; the inverse of `tokens_of`."""
    rest = [(0, 0)] * (x_P.ndim - 1)
    blocks = [
        jnp.pad(block, [(stair.first, 0), (0, 0), *rest])
        for stair, block in zip(runs.stairs, blocks_of(x_P, runs), strict=True)
    ]
    whole = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks[::-1], axis=1)
    return jnp.pad(whole, [(0, 0), (length - runs.longest, 0), *rest])


def split_tokens(x_P: jax.Array, runs: Runs) -> list[jax.Array]:
    """The sequences of each run, [count, longest, ...]."""
    x_SL, start, parts = padded(x_P, runs, runs.longest), 0, []
    for count, longest in runs:
        parts.append(x_SL[start : start + count, runs.longest - longest :])
        start += count
    return parts


def join_tokens(parts: Sequence[jax.Array], runs: Runs) -> jax.Array:
    """The inverse of `split_tokens`."""
    ahead = [runs.longest - longest for _, longest in runs]
    whole = _joined(
        jnp.pad(part, [(0, 0), (short, 0), *[(0, 0)] * (part.ndim - 2)])
        for part, short in zip(parts, ahead, strict=True)
    )
    return tokens_of(whole, runs)


def split_pairs(x_Q: jax.Array, runs: Runs) -> list[jax.Array]:
    """The pairs of each run, [count, longest, longest, ...]."""
    parts = jax.lax.split(x_Q, [count * longest**2 for count, longest in runs])
    return [
        part.reshape(count, longest, longest, *part.shape[1:])
        for part, (count, longest) in zip(parts, runs, strict=True)
    ]


def join_pairs(parts: Sequence[jax.Array]) -> jax.Array:
    """The inverse of `split_pairs`."""
    return _joined(part.reshape(-1, *part.shape[3:]) for part in parts)


def _joined(parts):
    parts = list(parts)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
