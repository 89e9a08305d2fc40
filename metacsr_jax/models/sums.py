"""Sums and maxima along an axis of few entries, written out term by term, in value and in every derivative.

A compiler for CPUs calls a routine of its own for a reduction, or loops along the fastest axis; with ten positions that costs more
than all the rest of a softmax. Written out, the terms fuse into the loop that makes them.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp

WRITTEN_OUT = 32  # entries of an axis, at most


def short_sum(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.sum(x, axis, keepdims=True)`."""
    return _sum(x, axis % x.ndim, x.shape[axis])


def spread(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jnp.broadcast_to(x, shape)` along one axis of `x` that has a single entry."""
    axes = [axis for axis in range(x.ndim) if x.shape[axis] != shape[axis]]
    return _spread(x, axes[0], shape[axes[0]]) if axes else x


def short_max(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.max(x, axis, keepdims=True)`."""
    return _written(jnp.maximum, partial(jnp.max, axis=axis, keepdims=True), x, axis % x.ndim)


def _written(join: Callable, whole: Callable, x: jax.Array, axis: int) -> jax.Array:
    if x.shape[axis] > WRITTEN_OUT or not x.shape[axis]:
        return whole(x)
    return reduce(
        join, (jax.lax.slice_in_dim(x, n, n + 1, axis=axis) for n in range(x.shape[axis]))
    )


# One is the other's derivative. Each has its own rule, since that of a slice pads and adds.
@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sum(x, axis, size):
    return _written(jnp.add, partial(jnp.sum, axis=axis, keepdims=True), x, axis)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(x, axis, size):
    return jnp.broadcast_to(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


_sum.defvjp(lambda *x: (_sum(*x), None), lambda axis, size, _, g: (_spread(g, axis, size),))
_spread.defvjp(lambda *x: (_spread(*x), None), lambda axis, size, _, g: (_sum(g, axis, size),))
