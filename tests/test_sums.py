"""Sums written out term by term are those of jnp, in value, first and second derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.models.sums import WRITTEN_OUT, short_max, short_sum, spread


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("length", [1, 3, WRITTEN_OUT + 1])
def test_against_jnp(length, axis):
    x = jax.random.normal(jax.random.key(0), (length, length, length)) + 2.0
    direction = jax.random.normal(jax.random.key(1), x.shape)

    def written(x):
        return jnp.sum(x / spread(short_sum(x * x, axis), x.shape) * direction)

    def plain(x):
        return jnp.sum(x / jnp.sum(x * x, axis, keepdims=True) * direction)

    for derivative in (
        lambda f: f,
        jax.grad,
        lambda f: jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), direction)),
    ):
        one, other = jax.jit(derivative(written))(x), jax.jit(derivative(plain))(x)
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(short_max(x, axis), jnp.max(x, axis, keepdims=True))


def test_a_spread_of_nothing_new_is_the_array_itself():
    x = jnp.ones((2, 3))
    assert spread(x, (2, 3)) is x
