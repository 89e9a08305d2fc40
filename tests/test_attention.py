"""Masked attention: rows without partners, direction, normalisation, distance."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metacsr_jax.config import ModelConfig
from metacsr_jax.models.attention import (
    INITIAL_SLOPE,
    PairAttention,
    directed_masks,
    masked_softmax,
)

LENGTH = 4
KINDS = [(kind, index) for kind in ("element", "feature") for index in ("m", "n")]


def attention(length=LENGTH, seed=0, **options):
    """A `PairAttention` as a function (parameters, items, valid), random parameters, random items."""
    config = dataclasses.replace(
        ModelConfig(dim=3, max_length=length, distance="linear"), **options
    )
    module = PairAttention(config)
    item_LD = np.float32(np.random.default_rng(seed).standard_normal((length, 3)))
    params = module.init(jax.random.key(seed), item_LD, np.ones(length, bool))["params"]
    return (
        lambda *given: jnp.split(module.apply({"params": given[0]}, *given[1:]), 2, axis=-1),
        params,
        item_LD,
    )


def valid(length, total=LENGTH):
    return np.arange(total) >= total - length


def test_masks_by_hand():
    forward_LL, backward_LL = directed_masks(jnp.array([False, True, True, True]))
    assert forward_LL.astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]
    assert backward_LL.astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
    ]


@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)),
    hnp.arrays(bool, (3, 5)),
)
def test_masked_softmax_is_a_softmax_of_what_is_allowed(score, allowed):
    weight = np.asarray(masked_softmax(jnp.asarray(score), jnp.asarray(allowed), axis=1))
    for score_row, allowed_row, weight_row in zip(
        score.astype(float), allowed, weight, strict=True
    ):
        expected = np.zeros(5)
        if allowed_row.any():
            e = np.exp(score_row[allowed_row] - score_row[allowed_row].max())
            expected[allowed_row] = e / e.sum()
        np.testing.assert_allclose(weight_row, expected, atol=2e-6)


def test_masked_softmax_takes_scores_far_apart():
    score = jnp.array([[1e30, -1e30, 3.0], [-3e38, -3e38, 0.0]])
    allowed = jnp.array([[True, True, False], [True, True, False]])
    gradient = jax.grad(lambda s: masked_softmax(s, allowed, axis=1)[:, 0].sum())(score)
    assert masked_softmax(score, allowed, axis=1)[0].tolist() == [1, 0, 0]
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize(("kind", "index"), KINDS)
def test_nothing_to_attend_to_gives_zeros_and_finite_derivatives(kind, index, length):
    apply, params, item_LD = attention(attention=kind, normalise_over=index, distance="learned")

    def total(params, item_LD):
        forward_LD, backward_LD = apply(params, item_LD, valid(length))
        return jnp.sum(jnp.sin(forward_LD) + jnp.cos(backward_LD))

    for encoding in apply(params, item_LD, valid(length)):
        assert not np.asarray(encoding).any()
    first = jax.grad(total, argnums=(0, 1))(params, item_LD)
    # The derivative of a derivative, along a direction: what the outer loop takes.
    second = jax.grad(
        lambda *at: sum(
            jnp.sum(leaf) for leaf in jax.tree.leaves(jax.grad(total, argnums=(0, 1))(*at))
        ),
        argnums=(0, 1),
    )(params, item_LD)
    for leaf in jax.tree.leaves((first, second)):
        assert not np.asarray(leaf).any()  # NaN counts as true


@pytest.mark.parametrize(("kind", "index"), KINDS)
def test_derivatives_with_partly_empty_rows_are_finite(kind, index):
    apply, params, item_LD = attention(attention=kind, normalise_over=index, distance="exp")

    def total(params, item_LD):
        return sum(jnp.sum(jnp.tanh(e) ** 2) for e in apply(params, item_LD, valid(3)))

    def slope(params, item_LD):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(total)(params, item_LD)))

    first, second = jax.grad(total)(params, item_LD), jax.grad(slope)(params, item_LD)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first, second)))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(second))


@pytest.mark.parametrize("kind", ["element", "feature"])
def test_forward_sees_the_past_and_backward_the_future(kind):
    apply, params, item_LD = attention(attention=kind)
    jacobians = jax.jacobian(lambda items: apply(params, items, valid(LENGTH)))(item_LD)
    forward_LL, backward_LL = (np.abs(np.asarray(j)).max(axis=(1, 3)) for j in jacobians)  # [n, m]
    n, m = np.indices((LENGTH, LENGTH))
    assert not forward_LL[m > n].any() and (forward_LL[m < n] > 1e-3).all()
    assert not backward_LL[m < n].any() and (backward_LL[m > n] > 1e-3).all()
    assert not forward_LL[0].any() and not backward_LL[-1].any()


@pytest.mark.parametrize("kind", ["element", "feature"])
def test_weights_sum_to_one_over_the_named_index(kind):
    apply, params, item_LD = attention(attention=kind)
    same_LD = np.broadcast_to(item_LD[:1], item_LD.shape)
    forward_LD, backward_LD = apply(params, same_LD, valid(LENGTH))
    np.testing.assert_allclose(forward_LD[1:], same_LD[1:], rtol=1e-5)
    np.testing.assert_allclose(backward_LD[:-1], same_LD[:-1], rtol=1e-5)
    # Over n, each item is handed out once: all of them but the one that has no partner.
    apply, params, item_LD = attention(attention=kind, normalise_over="n")
    forward_LD, backward_LD = apply(params, item_LD, valid(LENGTH))
    np.testing.assert_allclose(
        forward_LD.sum(axis=0), item_LD[:-1].sum(axis=0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        backward_LD.sum(axis=0), item_LD[1:].sum(axis=0), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("distance", "d"),
    [("exp", math.exp), ("linear", float), ("learned", lambda step: INITIAL_SLOPE * step)],
)
def test_distance_by_hand(distance, d):
    """With W3 = 0 only the distance is left: the last of three attends to the two before it."""
    apply, params, item_LD = attention(length=3, distance=distance)
    params = {**params, "W3": jnp.zeros_like(params["W3"])}
    forward_LD, backward_LD = apply(params, item_LD, valid(3, 3))
    near, far = math.exp(-d(1)), math.exp(-d(2))
    expected = (far * item_LD[0] + near * item_LD[1]) / (near + far)
    np.testing.assert_allclose(forward_LD[2], expected, rtol=1e-5)
    expected = (far * item_LD[2] + near * item_LD[1]) / (near + far)
    np.testing.assert_allclose(backward_LD[0], expected, rtol=1e-5)


def test_each_direction_learns_its_own_slope():
    apply, params, item_LD = attention(distance="learned")
    changed = {**params, "slope_fw": params["slope_fw"] + 1.0}
    before, after = apply(params, item_LD, valid(LENGTH)), apply(changed, item_LD, valid(LENGTH))
    assert np.abs(np.asarray(before[0] - after[0])).max() > 1e-3
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("index", ["m", "n"])
def test_long_histories_overflow_the_distance_without_harm(index):
    """exp(99) is no float32: such pairs get no weight, and nothing becomes NaN."""
    apply, params, item_LD = attention(length=100, distance="exp", normalise_over=index)

    def total(params):
        return sum(jnp.sum(e**2) for e in apply(params, item_LD, valid(100, 100)))

    value, gradient = jax.value_and_grad(total)(params)
    assert np.isfinite(value) and value > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
