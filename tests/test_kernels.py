"""Kernels against what they stand for, in value, first and second derivative; what happens without them.

Dimension key: T tasks, B lists or sequences, N indices, I rows, L positions, D = dim.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.errors import ConfigError
from metacsr_jax.kernels import mixing, native, rows
from metacsr_jax.models import pairs

ITEMS, LISTS, COUNT, LENGTH = 11, 19, 7, 5
GENERATOR = np.random.default_rng(0)
have_kernels = pytest.mark.skipif(
    jax.default_backend() != "cpu" or native.load() is not None,
    reason=f"no kernels here: {native.load()}",
)


def floats(*shape):
    return jnp.asarray(GENERATOR.standard_normal(shape), jnp.float32)


def indices(*shape):
    return jnp.asarray(GENERATOR.integers(0, ITEMS, shape), jnp.int32)


def cases(dim):
    """Functions of float arrays, with their arguments."""
    index_BN = indices(LISTS, COUNT)
    valid_LL = jnp.arange(LENGTH) > 1
    allowed_LL = valid_LL[:, None] & valid_LL[None]
    start_M1 = jnp.asarray([0, 3, 3, 8], jnp.int32)
    sender_E = jnp.asarray([2, 0, 3, 1, 1, 2, 3, 0], jnp.int32)
    back = (
        jnp.asarray([0, 2, 4, 6, 8], jnp.int32),
        jnp.asarray([0, 2, 2, 2, 0, 2, 0, 2], jnp.int32),
    )
    weight_LL = floats(LENGTH, LENGTH).at[0].set(0.0)  # padding
    pull_g_LL = floats(LENGTH, LENGTH).at[:, 1].set(0.0)
    pair = (floats(LENGTH, dim), floats(LENGTH, dim), floats(dim))
    return {
        "row_dot": (
            lambda t, v: rows.row_dot(t, v, index_BN),
            (floats(ITEMS, dim), floats(LISTS, dim)),
        ),
        "row_sum": (
            lambda t, w: rows.row_sum(t, w, index_BN),
            (floats(ITEMS, dim), floats(LISTS, COUNT)),
        ),
        "row_outer": (
            lambda w, v: rows.row_outer(w, v, index_BN, ITEMS),
            (floats(LISTS, COUNT), floats(LISTS, dim)),
        ),
        "neighbour_sum": (
            lambda t: rows.neighbour_sum(t, (start_M1, sender_E), back),
            (floats(4, dim),),
        ),
        "mix": (mixing.mix, (weight_LL, floats(LENGTH, dim))),
        "unmix": (mixing.unmix, (weight_LL, floats(LENGTH, 2, dim))),
        "mix_dot": (mixing.mix_dot, (floats(LENGTH, dim), floats(LENGTH, 2, dim))),
        "side_sum": (mixing.side_sum, (floats(LENGTH, LENGTH),)),
        "side_softmax": (lambda s: mixing.side_softmax(s, allowed_LL), (floats(LENGTH, LENGTH),)),
        "pair_scores": (pairs.pair_scores, pair),
        "pair_pull": (lambda q, k, w: pairs._pull(q, k, w, pull_g_LL), pair),
    }


def derivatives(function, arguments):
    """Value, first and second derivative along random directions."""
    out = jax.eval_shape(function, *arguments)
    random = np.random.default_rng(1)

    def along(tree):
        return jax.tree.map(lambda a: jnp.asarray(random.standard_normal(a.shape), a.dtype), tree)

    of_out, of_arguments = along(out), along(arguments)

    def dot(one, other):
        pairs_of = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return sum(jnp.vdot(a, b) for a, b in pairs_of)

    def total(*arguments):
        value = function(*arguments)
        return dot(value, of_out) + 0.1 * dot(value, value)

    every = tuple(range(len(arguments)))

    def slope(*arguments):
        return dot(jax.grad(total, every)(*arguments), of_arguments)

    return jax.jit(
        lambda *a: (function(*a), jax.grad(total, every)(*a), jax.grad(slope, every)(*a))
    )(*arguments)


def close(one, other, rtol=2e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-4), one, other)


@have_kernels
@pytest.mark.parametrize("dim", [3, 64, 130])  # less than a slice, one, more than a tile
@pytest.mark.parametrize("name", cases(3))
def test_kernels_are_what_they_stand_for(monkeypatch, name, dim):
    function, arguments = cases(dim)[name]
    called = []
    original = jax.ffi.ffi_call
    monkeypatch.setattr(
        jax.ffi, "ffi_call", lambda *a, **k: called.append(a[0]) or original(*a, **k)
    )
    fast = derivatives(function, arguments)
    assert called
    monkeypatch.setattr(native, "usable", lambda *_: False)
    close(fast, derivatives(function, arguments))


@have_kernels
@pytest.mark.parametrize("name", cases(3))
def test_mapped_operands_and_shared_ones(name):
    """Each operand in turn is shared by all tasks, or by all samples of a task, and not copied for it."""
    function, arguments = cases(5)[name]
    count = len(arguments)
    for shared in [None, *range(count)]:
        axes = tuple(None if n == shared else 0 for n in range(count))
        if all(axis is None for axis in axes):
            continue
        given = [
            a if axis is None else jnp.stack([a, 2 * a, a + 1])
            for a, axis in zip(arguments, axes, strict=True)
        ]
        together = jax.vmap(function, axes)(*given)
        alone = [
            function(*(a if axis is None else a[t] for a, axis in zip(given, axes, strict=True)))
            for t in range(3)
        ]
        close(together, jax.tree.map(lambda *parts: jnp.stack(parts), *alone), rtol=1e-5)
        nested = jax.vmap(jax.vmap(function, axes), (0,) * count)(
            *(jnp.stack([a, a + 0.5]) for a in given)
        )
        first = jax.tree.map(lambda a: a[0], nested)
        close(first, together, rtol=1e-5)


def test_rows_by_hand():
    """Two lists of two: rows 0 and 2 with vector (1, 10), row 2 twice with (2, 0)."""
    table_ID = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    vector_BD, index_BN = (
        jnp.array([[1.0, 10.0], [2.0, 0.0]]),
        jnp.array([[0, 2], [2, 2]], jnp.int32),
    )
    weight_BN = jnp.array([[1.0, 0.5], [2.0, 3.0]])
    dots = [[1 + 20, 5 + 60], [10, 10]]
    np.testing.assert_array_equal(rows.row_dot(table_ID, vector_BD, index_BN), dots)
    sums = [[1 + 0.5 * 5, 2 + 0.5 * 6], [5 * 5, 5 * 6]]
    np.testing.assert_array_equal(rows.row_sum(table_ID, weight_BN, index_BN), sums)
    outer = [[1, 10], [0, 0], [0.5 * 1 + 5 * 2, 0.5 * 10]]
    np.testing.assert_array_equal(rows.row_outer(weight_BN, vector_BD, index_BN, 3), outer)


def test_sides_by_hand():
    """Three positions: earlier ones mix into the first half, later ones into the second."""
    weight_LL = jnp.array([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]])
    item_LD = jnp.array([[1.0], [10.0], [100.0]])
    expected = [[[0], [3 * 10 + 5 * 100]], [[1], [6 * 100]], [[2 * 1 + 4 * 10], [0]]]
    np.testing.assert_array_equal(mixing.mix(weight_LL, item_LD), expected)
    sums = [[0, 1, 2 + 4], [3 + 5, 0, 2 + 4], [3 + 5, 6, 0]]
    np.testing.assert_array_equal(mixing.side_sum(weight_LL), sums)
    np.testing.assert_array_equal(mixing.side_max(weight_LL), [[0, 1, 4], [5, 0, 4], [5, 6, 0]])


@have_kernels
def test_what_is_not_a_number_stays_so():
    """A diverged model has to show: neither NaN nor infinity may be lost on the way."""
    table_ID = jnp.array([[1.0], [jnp.nan], [jnp.inf]])
    index_BN, one_BD = jnp.array([[0, 1, 2]], jnp.int32), jnp.ones((1, 1))
    dots = np.asarray(rows.row_dot(table_ID, one_BD, index_BN))[0]
    assert dots[0] == 1 and np.isnan(dots[1]) and np.isinf(dots[2])
    assert np.isnan(rows.row_sum(table_ID, jnp.ones((1, 3)), index_BN)).all()
    score_LL = jnp.zeros((3, 3)).at[0, 2].set(jnp.nan)
    weight_LL = np.asarray(mixing.side_softmax(score_LL, jnp.ones((3, 3), bool)))
    assert np.isnan(weight_LL[:2, 2]).all() and np.isfinite(weight_LL[:, :2]).all()


@have_kernels
def test_indices_out_of_range_read_the_nearest_row():
    index_BN = jnp.array([[-5, 99]], jnp.int32)
    table_ID, vector_BD = jnp.array([[1.0], [2.0]]), jnp.ones((1, 1))
    assert rows.row_dot(table_ID, vector_BD, index_BN).tolist() == [[1, 2]]


def test_other_types_and_meshes_do_without(monkeypatch):
    with jax.enable_x64(True):
        assert not native.usable(jnp.zeros(3, jnp.float64))
    assert not native.usable(jnp.zeros(3, jnp.bfloat16))
    monkeypatch.setattr(native, "mesh_size", lambda: 2)
    assert not native.usable(jnp.zeros(3, jnp.float32))


def run(code="print(native.load())", **environment):
    """Prints of a fresh process; environment variables that are None are unset."""
    changed = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    changed = {name: value for name, value in changed.items() if value is not None}
    start = [sys.executable, "-W", "error::UserWarning", "-c"]
    code = f"from metacsr_jax.kernels import native\n{code}"
    return subprocess.run([*start, code], env=changed, capture_output=True, text=True)


def test_without_a_compiler_the_plain_forms_are_used(tmp_path):
    done = run(PATH=str(tmp_path), CXX=None, METACSR_KERNELS="auto")
    assert done.returncode == 0 and "no C++ compiler" in done.stdout
    done = run(PATH=str(tmp_path), CXX=None, METACSR_KERNELS="on")
    assert done.returncode and "METACSR_KERNELS=on" in done.stderr
    assert run(METACSR_KERNELS="off").stdout == "METACSR_KERNELS=off\n"


def test_a_compiler_that_fails_is_said(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = run(CXX=str(compiler), METACSR_KERNELS="auto", METACSR_CACHE_DIR=str(tmp_path))
    assert done.returncode and "no kernels for this CPU" in done.stderr  # warnings are errors here
    assert "no such flag" in done.stderr


def test_an_unknown_switch_is_refused(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "yes")
    with pytest.raises(ConfigError, match="METACSR_KERNELS='yes': expected auto, on or off"):
        native.load.__wrapped__()
