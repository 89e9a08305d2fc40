"""Kernels against what they stand for, in value, first and second derivative; what happens without them.

Dimension key: T tasks, B lists, N indices, I rows, D = dim; S sequences in runs, P tokens, Q pairs; K samples, F rows and O columns of a
matrix.
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
from metacsr_jax.models.attention import allowed_pairs
from metacsr_jax.models.products import product, stair_back, stair_outer, stair_product
from metacsr_jax.runs import Run, Runs, evenly, padded

ITEMS, LISTS, COUNT = 11, 19, 7
RUNS = Runs([Run(2, 1), Run(3, 4), Run(1, 4), Run(5, 5)])
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
    start_M1 = jnp.asarray([0, 3, 3, 8], jnp.int32)
    sender_E = jnp.asarray([2, 0, 3, 1, 1, 2, 3, 0], jnp.int32)
    back = (
        jnp.asarray([0, 2, 4, 6, 8], jnp.int32),
        jnp.asarray([0, 2, 2, 2, 0, 2, 0, 2], jnp.int32),
    )
    tokens, pairs_of = RUNS.tokens, RUNS.pairs
    allowed_Q = allowed_pairs(jnp.asarray([1, 0, 4, 2, 3, 1, 5, 3, 0, 2, 4]), RUNS)
    weight_Q = jnp.where(allowed_Q, floats(pairs_of), 0.0)
    pull_g_Q = jnp.where(allowed_Q, floats(pairs_of), 0.0)
    pair = (floats(tokens, 2, dim), floats(dim))
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
        "mix": (lambda w, i: mixing.mix(w, i, RUNS), (weight_Q, floats(tokens, dim))),
        "unmix": (lambda w, m: mixing.unmix(w, m, RUNS), (weight_Q, floats(tokens, 2, dim))),
        "mix_dot": (
            lambda i, m: mixing.mix_dot(i, m, RUNS),
            (floats(tokens, dim), floats(tokens, 2, dim)),
        ),
        "side_sum": (lambda x: mixing.side_sum(x, RUNS), (floats(pairs_of),)),
        "side_softmax": (lambda s: mixing.side_softmax(s, allowed_Q, RUNS), (floats(pairs_of),)),
        "pair_scores": (lambda e, w: pairs.pair_scores(e, w, RUNS), pair),
        "pair_pull": (lambda e, w: pairs._pull(e, w, pull_g_Q, RUNS), pair),
        "product": (product, (floats(COUNT, dim), floats(dim, 5))),
        "stair_product": (
            lambda x, w: stair_product(x, w, RUNS, 6),
            (floats(tokens, dim), floats(6 * dim, 33)),
        ),
        "stair_back": (
            lambda y, w: stair_back(y, w, RUNS, 6),
            (floats(RUNS.sequences, 33), floats(6 * dim, 33)),
        ),
        "stair_outer": (
            lambda x, y: stair_outer(x, y, RUNS, 6),
            (floats(tokens, dim), floats(RUNS.sequences, 33)),
        ),
    }


CALLS = {
    **dict.fromkeys(("row_dot", "row_sum", "row_outer"), ("RowDot", "RowSum", "RowOuter")),
    "neighbour_sum": ("NeighbourSum",),
    **dict.fromkeys(("mix", "unmix", "mix_dot"), ("Mix", "Unmix", "MixDot")),
    "side_sum": ("SideSum",),
    "side_softmax": ("SideSum", "SideMax"),
    "pair_scores": ("PairScore", "PairPull", "PairPullPull"),
    "pair_pull": ("PairPull", "PairPullPull"),
    **dict.fromkeys(
        ("product", "stair_product", "stair_back", "stair_outer"),
        ("StairTimes", "StairBack", "StairOuter"),
    ),
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
    assert {f"metacsr_{kind}" for kind in CALLS[name]} <= set(called)
    monkeypatch.setattr(native, "usable", lambda *_: False)
    close(fast, derivatives(function, arguments))


@have_kernels
def test_what_does_not_fit_together_is_refused():
    """A kernel reads as far as it is told; what it is told is checked before."""
    weight_Q, item_PD, one = floats(RUNS.pairs), floats(RUNS.tokens, 3), evenly(1, 3)
    table_ID, vector_BD, index_BN = floats(ITEMS, 3), floats(LISTS, 3), indices(LISTS, COUNT)
    for wrong in (
        lambda: mixing.mix(weight_Q, item_PD[:-1], RUNS),
        lambda: mixing.mix(weight_Q[1:], item_PD, RUNS),
        lambda: mixing.mix(weight_Q, item_PD, one),
        lambda: pairs.pair_scores(floats(3, 2, 5), floats(4), one),
        lambda: rows.row_dot(table_ID, vector_BD[1:], index_BN),
        lambda: rows.row_dot(table_ID, floats(LISTS, 4), index_BN),
        lambda: rows.row_sum(table_ID, floats(LISTS, COUNT + 1), index_BN),
        lambda: stair_product(item_PD[1:], floats(15, 4), RUNS, 5),
        lambda: stair_product(item_PD, floats(14, 4), RUNS, 5),
        lambda: stair_product(item_PD, floats(16, 4), RUNS, 5),
        lambda: stair_back(floats(RUNS.sequences, 4), floats(16, 4), RUNS, 5),
        lambda: stair_back(floats(RUNS.sequences - 1, 4), floats(15, 4), RUNS, 5),
        lambda: stair_outer(item_PD, floats(RUNS.sequences + 1, 4), RUNS, 5),
        lambda: stair_outer(item_PD, floats(RUNS.sequences, 4), RUNS, 4),
    ):
        with pytest.raises((TypeError, ValueError)):
            wrong()


SIZES = [1, 2, 31, 33]  # a panel of columns is 8, 16 or 32 wide, a tile has up to 14 rows


@pytest.mark.parametrize("depth", [1, 16, 129])  # a panel holds 128 rows
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", [*SIZES, 600])
def test_products_of_all_sizes(rows, depth, columns):
    check_product(rows, depth, columns)


@pytest.mark.parametrize("rows", [40, 2000])
@pytest.mark.parametrize("depth", [129, 1024])  # 1024: rows lie a page apart
def test_products_that_are_shared_among_threads(rows, depth):
    check_product(rows, depth, 150)


def test_a_product_of_no_samples():
    assert product(jnp.zeros((2, 0, 3)), jnp.zeros((3, 5))).shape == (2, 0, 5)


def check_product(rows, depth, columns):
    """Every edge of tiles, panels and parts; whole numbers, so that sums in any order are equal to the bit."""
    x_KF, kernel_FO, y_KO = (
        jnp.asarray(GENERATOR.integers(-8, 9, shape), jnp.float32)
        for shape in ((rows, depth), (depth, columns), (rows, columns))
    )
    out, pull = jax.vjp(product, x_KF, kernel_FO)
    for made, left, right in zip(
        (out, *pull(y_KO)), (x_KF, y_KO, x_KF.T), (kernel_FO, kernel_FO.T, y_KO), strict=True
    ):
        np.testing.assert_array_equal(made, np.asarray(left) @ np.asarray(right))


@pytest.mark.parametrize("width", [1, 3, 512])  # 512: pairs of positions lie a page apart
@pytest.mark.parametrize("runs", [RUNS, evenly(5, 6), Runs([Run(0, 2), Run(40, 4)])])
def test_stairs_are_the_product_of_padded_sequences(runs, width):
    state_PE, kernel_FO = floats(runs.tokens, width), floats(6 * width, 7)

    def whole(state_PE, kernel_FO):
        return padded(state_PE, runs, 6).reshape(runs.sequences, -1) @ kernel_FO

    y_SO = floats(runs.sequences, 7)
    made, expected = (
        (out, pull(y_SO))
        for out, pull in (
            jax.vjp(lambda *a: stair_product(*a, runs, 6), state_PE, kernel_FO),
            jax.vjp(whole, state_PE, kernel_FO),
        )
    )
    close(made, expected, rtol=1e-4)


@pytest.mark.parametrize("shared", [(0,), (1,), ()])
@pytest.mark.parametrize("count", [2, 40])
def test_products_of_tasks_have_the_derivatives_of_each(count, shared):
    given = (floats(3, count, 5), floats(3, 5, 4))
    axes = tuple(None if n in shared else 0 for n in range(2))
    given = tuple(a[0] if n in shared else a for n, a in enumerate(given))

    def total(one, x, kernel):
        return jnp.sum(jnp.sin(jax.vmap(one, axes)(x, kernel)))

    def slope(one, *given):
        return sum(jnp.sum(jnp.cos(g)) for g in jax.grad(total, (1, 2))(one, *given))

    fast, plain = (
        (jax.grad(total, (1, 2))(one, *given), jax.grad(slope, (1, 2))(one, *given))
        for one in (product, jnp.matmul)
    )
    close(fast, plain, rtol=1e-5)


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


@have_kernels
@pytest.mark.parametrize("name", cases(3))
def test_bits_do_not_depend_on_which_thread_computes(name):
    function, arguments = cases(64)[name]

    def total(*arguments):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(function(*arguments)))

    every = tuple(range(len(arguments)))
    both = jax.jit(lambda *a: (function(*a), jax.grad(total, every)(*a)))
    first, *others = (jax.tree.map(np.asarray, both(*arguments)) for _ in range(40))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, first)


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
    weight_Q = jnp.array([9.0, 1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 9.0])
    item_PD = jnp.array([[1.0], [10.0], [100.0]])
    one = evenly(1, 3)
    expected = [[[0], [3 * 10 + 5 * 100]], [[1], [6 * 100]], [[2 * 1 + 4 * 10], [0]]]
    np.testing.assert_array_equal(mixing.mix(weight_Q, item_PD, one), expected)
    sums = [*[0, 1, 2 + 4], *[3 + 5, 0, 2 + 4], *[3 + 5, 6, 0]]
    np.testing.assert_array_equal(mixing.side_sum(weight_Q, one), sums)
    np.testing.assert_array_equal(mixing.side_max(weight_Q, one), [0, 1, 4, 5, 0, 4, 5, 6, 0])


def test_runs_by_hand():
    """One position, then two: the latest ones of both lie ahead of the other one of the second sequence."""
    runs = Runs([Run(1, 1), Run(1, 2)])
    item_PD = jnp.array(
        [[1.0], [10.0], [100.0]]
    )  # of the first; the second's latest; its earlier one
    weight_Q = jnp.array([9.0, 9.0, 2.0, 3.0, 9.0])  # [0, 1] is from the earlier to the latest
    expected = [[[0], [0]], [[2 * 100], [0]], [[0], [3 * 10]]]
    np.testing.assert_array_equal(mixing.mix(weight_Q, item_PD, runs), expected)
    np.testing.assert_array_equal(
        mixing.mix_dot(item_PD, jnp.ones((3, 2, 1)), runs), [0, 0, 100, 10, 0]
    )


@have_kernels
def test_what_is_not_a_number_stays_so():
    """A diverged model has to show: neither NaN nor infinity may be lost on the way."""
    table_ID = jnp.array([[1.0], [jnp.nan], [jnp.inf]])
    index_BN, one_BD = jnp.array([[0, 1, 2]], jnp.int32), jnp.ones((1, 1))
    dots = np.asarray(rows.row_dot(table_ID, one_BD, index_BN))[0]
    assert dots[0] == 1 and np.isnan(dots[1]) and np.isinf(dots[2])
    assert np.isnan(rows.row_sum(table_ID, jnp.ones((1, 3)), index_BN)).all()
    score_Q, one = jnp.zeros((3, 3)).at[0, 2].set(jnp.nan).reshape(-1), evenly(1, 3)
    allowed_Q = allowed_pairs(jnp.array([3]), one)
    weight_LL = np.asarray(mixing.side_softmax(score_Q, allowed_Q, one)).reshape(3, 3)
    assert np.isnan(weight_LL[:2, 2]).all() and np.isfinite(weight_LL[:, :2]).all()
    end_P2A = jnp.zeros((3, 2, 4)).at[1, 0, 2].set(jnp.nan)
    score_LL = np.asarray(pairs.pair_scores(end_P2A, jnp.ones(4), one)).reshape(3, 3)
    assert np.isnan(score_LL[1]).all() and np.isfinite(score_LL[[0, 2]]).all()


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


def test_a_compiler_that_is_named_and_missing_is_said(tmp_path):
    done = run(CXX="no-such-compiler", METACSR_KERNELS="auto", METACSR_CACHE_DIR=str(tmp_path))
    assert done.returncode and "no-such-compiler" in done.stderr


def test_an_unknown_switch_is_refused(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "yes")
    with pytest.raises(ConfigError, match="METACSR_KERNELS='yes': expected auto, on or off"):
        native.load.__wrapped__()
