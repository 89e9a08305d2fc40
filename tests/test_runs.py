"""Sequences of several lengths in one array: what lies where, and back.

Dimension key: S sequences, L positions, P tokens, Q pairs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.models.attention import allowed_pairs
from metacsr_jax.runs import (
    Run,
    Runs,
    Stair,
    blocks_of,
    evenly,
    join_pairs,
    join_tokens,
    padded,
    split_pairs,
    split_tokens,
    tokens_of,
)

some_runs = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4).map(
    lambda pairs: Runs(
        Run(count, longest)
        for (count, _), longest in zip(pairs, sorted(p[1] for p in pairs), strict=True)
    )
)


def test_stairs_by_hand():
    """Lengths 1, 3, 3: the latest of all three, then the two before it of the second and third."""
    runs = Runs([Run(1, 1), Run(2, 3)])
    assert (runs.sequences, runs.tokens, runs.pairs, runs.longest) == (3, 1 + 2 * 3, 1 + 2 * 9, 3)
    assert runs.stairs == [Stair(0, 0, 1), Stair(1, 1, 3)]
    x_SL = jnp.array([[0, 0, 3], [11, 12, 13], [21, 22, 23]])
    assert tokens_of(x_SL, runs).tolist() == [3, 13, 23, 11, 12, 21, 22]
    wide_SL = jnp.pad(x_SL, ((0, 0), (2, 0)))
    assert tokens_of(wide_SL, runs).tolist() == [3, 13, 23, 11, 12, 21, 22]
    assert padded(tokens_of(x_SL, runs), runs, 5).tolist() == wide_SL.tolist()
    assert [b.tolist() for b in blocks_of(tokens_of(x_SL, runs), runs)] == [
        [[3], [13], [23]],
        [[11, 12], [21, 22]],
    ]


def test_merged_by_hand():
    runs = Runs([Run(1, 1), Run(2, 2), Run(3, 3), Run(4, 4), Run(5, 6)])
    assert runs.merged(2) == Runs([Run(1 + 2 + 3, 3), Run(4 + 5, 6)])
    assert runs.merged(1) == Runs([Run(15, 6)]) and runs.merged(5) == runs.merged(9) == runs


def test_one_length_is_an_array_of_sequences():
    x_SLD = np.random.default_rng(0).standard_normal((3, 4, 2))
    np.testing.assert_array_equal(tokens_of(x_SLD, evenly(3, 4)), x_SLD.reshape(12, 2))


@settings(max_examples=20, deadline=None)
@given(some_runs)
def test_everything_comes_back(runs):
    code_P, code_Q = jnp.arange(runs.tokens), jnp.arange(runs.pairs)
    sequences = split_tokens(code_P, runs)
    assert [part.shape for part in sequences] == [tuple(run) for run in runs]
    assert sorted(np.concatenate([p.ravel() for p in sequences]).tolist()) == code_P.tolist()
    np.testing.assert_array_equal(join_tokens(sequences, runs), code_P)
    np.testing.assert_array_equal(tokens_of(padded(code_P, runs, 7), runs), code_P)
    parts = split_pairs(code_Q, runs)
    assert [part.shape for part in parts] == [(count, n, n) for count, n in runs]
    np.testing.assert_array_equal(join_pairs(parts), code_Q)


@settings(max_examples=20, deadline=None)
@given(some_runs, st.data())
def test_pairs_of_real_events_are_allowed(runs, data):
    longest_S = [longest for count, longest in runs for _ in range(count)]
    events_S = [data.draw(st.integers(0, longest)) for longest in longest_S]
    allowed = split_pairs(allowed_pairs(jnp.asarray(events_S), runs), runs)
    squares = [square for part in allowed for square in np.asarray(part)]
    for square, longest, events in zip(squares, longest_S, events_S, strict=True):
        real_L = np.arange(longest) >= longest - events
        expected = real_L[:, None] & real_L[None] & ~np.eye(longest, dtype=bool)
        np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize("runs", [[], [(1, 0)], [(1, 3), (1, 2)], [(-1, 2)]])
def test_runs_that_are_none_are_refused(runs):
    with pytest.raises(ValueError, match="shorter ones first"):
        Runs(Run(*run) for run in runs)


def test_runs_are_part_of_a_type():
    """Two programs, one for each."""
    traced = []

    @jax.jit
    def count(runs):
        traced.append(runs)
        return jnp.zeros(runs.tokens)

    for runs in (evenly(2, 3), Runs([Run(2, 3)]), evenly(3, 3)):
        assert count(runs).shape == (runs.tokens,)
    assert len(traced) == 2
