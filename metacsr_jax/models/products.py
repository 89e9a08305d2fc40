"""A layer's product x W, and that of sequences of states with W6, whose derivatives are made as the arrays lie in memory.

As `jax.vjp` has it, the derivative for W comes out as [O, F] and is turned round wherever it is added to something, which for W6's 2,560
rows costs as much as the product. The three functions are the derivatives of one form, sum_s x_s^T W y_s; each one's derivatives are the
other two.

Dimension key: K samples; P tokens of S sequences that come in runs (`metacsr_jax.runs`), L positions, E features of one; F = L E features
in, O out.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.kernels.native import kernel
from metacsr_jax.runs import Runs, Stair, blocks_of, evenly

LARGE = 1 << 16  # from so many tokens on a library is as good, and shares the sum over them, too


def product(x: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    """x W along the last axis of x, whose other axes are samples of one W."""
    if x.ndim == 1 or not x.size:
        return x @ kernel_FO
    *samples, features = x.shape
    count = math.prod(samples)
    out_KO = stair_product(x.reshape(count, features), kernel_FO, evenly(count, 1), 1)
    return out_KO.reshape(*samples, kernel_FO.shape[1])


def product_of_layer(x: jax.Array, kernel_FO: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`product` as `flax.linen.Dense` asks for it by `dot_general`."""
    return product(x, kernel_FO)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def stair_product(state_PE: jax.Array, kernel_FO: jax.Array, runs: Runs, length: int) -> jax.Array:
    """x W of sequences of states, one position after the other, [S, O]; the positions that a sequence lacks are zeros.

    Each row of W is read once, for the sequences that have its position.

    Args:
        state_PE: of the tokens.
        kernel_FO: W, F = L E.
        runs: the sequences.
        length: L.

    Raises:
        ValueError: W has not L E rows.
    """
    if kernel_FO.shape[0] != length * state_PE.shape[1]:
        raise ValueError(
            f"a matrix of {kernel_FO.shape[0]} rows: expected {length} positions x {state_PE.shape[1]} features"
        )

    def plain(state_PE, kernel_FO):
        out_SO = jnp.zeros((runs.sequences, kernel_FO.shape[1]), state_PE.dtype)
        parts = zip(
            runs.stairs,
            blocks_of(state_PE, runs),
            _parts_of(kernel_FO, runs, length),
            strict=True,
        )
        for stair, block, part_FO in parts:
            made = block.reshape(block.shape[0], -1) @ part_FO
            out_SO = out_SO + jnp.pad(made, ((stair.first, 0), (0, 0)))
        return out_SO

    result = jax.ShapeDtypeStruct((runs.sequences, kernel_FO.shape[1]), state_PE.dtype)
    call = partial(_call, "StairTimes", plain, result, runs=runs, length=length)
    return _of_tasks(call, stair_product, runs, length)(state_PE, kernel_FO)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def stair_back(y_SO: jax.Array, kernel_FO: jax.Array, runs: Runs, length: int) -> jax.Array:
    """y W^T, [P, E]: the derivative of `stair_product` for the states."""
    width, rest = divmod(kernel_FO.shape[0], length)
    if rest:
        raise ValueError(
            f"a matrix of {kernel_FO.shape[0]} rows: expected as many for each of {length} positions"
        )

    def plain(y_SO, kernel_FO):
        made = [
            jax.lax.dot_general(y_SO[stair.first :], part_FO, (((1,), (1,)), ((), ())))
            for stair, part_FO in zip(runs.stairs, _parts_of(kernel_FO, runs, length), strict=True)
        ]
        return jnp.concatenate([part.reshape(-1, width) for part in made])

    result = jax.ShapeDtypeStruct((runs.tokens, width), y_SO.dtype)
    call = partial(_call, "StairBack", plain, result, runs=runs, length=length)
    return _of_tasks(call, stair_back, runs, length)(y_SO, kernel_FO)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def stair_outer(state_PE: jax.Array, y_SO: jax.Array, runs: Runs, length: int) -> jax.Array:
    """x^T y, [F, O]: the derivative of `stair_product` for W."""
    width, out = state_PE.shape[1], y_SO.shape[1]

    def plain(state_PE, y_SO):
        made = [
            jax.lax.dot_general(
                block.reshape(block.shape[0], -1), y_SO[stair.first :], (((0,), (0,)), ((), ()))
            )
            for stair, block in zip(runs.stairs, blocks_of(state_PE, runs), strict=True)
        ]
        ahead = jnp.zeros(((length - runs.longest) * width, out), state_PE.dtype)
        return jnp.concatenate([ahead, *reversed(made)])

    result = jax.ShapeDtypeStruct((length * width, out), state_PE.dtype)
    return _call("StairOuter", plain, result, state_PE, y_SO, runs, length)


stair_product.defvjp(
    lambda x, kernel, runs, length: (stair_product(x, kernel, runs, length), (x, kernel)),
    lambda runs, length, given, y: (
        stair_back(y, given[1], runs, length),
        stair_outer(given[0], y, runs, length),
    ),
)
stair_back.defvjp(
    lambda y, kernel, runs, length: (stair_back(y, kernel, runs, length), (y, kernel)),
    lambda runs, length, given, x: (
        stair_product(x, given[1], runs, length),
        stair_outer(x, given[0], runs, length),
    ),
)
stair_outer.defvjp(
    lambda x, y, runs, length: (stair_outer(x, y, runs, length), (x, y)),
    lambda runs, length, given, kernel: (
        stair_back(given[1], kernel, runs, length),
        stair_product(given[0], kernel, runs, length),
    ),
)


def _call(name, plain, result, left, right, runs, length):
    if runs.tokens > LARGE:
        return plain(left, right)
    return kernel(name, plain, result, left, right, **runs.attributes, length=np.int64(length))


def _parts_of(kernel_FO: jax.Array, runs: Runs, length: int) -> list[jax.Array]:
    """The rows of W that each stair reads."""
    width = kernel_FO.shape[0] // length

    def rows(stair: Stair):
        return slice((length - stair.far) * width, (length - stair.near) * width)

    return [kernel_FO[rows(stair)] for stair in runs.stairs]


def _of_tasks(call: Callable, function: Callable, runs: Runs, length: int) -> Callable:
    """`call` of rows and W; of many tasks' rows with one W, where all sequences are of one length, `function` as of one task's."""
    if len(runs.stairs) > 1:
        return call
    mapped_call = jax.custom_batching.custom_vmap(call)

    @mapped_call.def_vmap
    def of_each(tasks, mapped, rows, kernel_FO):
        if mapped[1]:
            return jax.vmap(call, (0 if mapped[0] else None, 0))(rows, kernel_FO), True
        of_all = evenly(tasks * runs.sequences, runs.longest)
        out = function(rows.reshape(-1, rows.shape[2]), kernel_FO, of_all, length)
        return out.reshape(tasks, -1, out.shape[1]), True

    return mapped_call
