"""A layer's product x W whose derivative for W comes out as W lies in memory, [F, O].

As `jax.vjp` has it, the derivative is made as [O, F] and turned round wherever it is added to something, which for W6's 2,560 rows costs
as much as the product. The three functions are the derivatives of one form, sum_k x_k^T W y_k; each one's derivatives are the other two.

Dimension key: K samples; P tokens of S sequences that come in runs (`metacsr_jax.runs`), L positions, E features of one; F features in, O
out.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.kernels.matrices import sum_of_outer, times_transposed
from metacsr_jax.runs import Runs, blocks_of


def product(x: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    """x W along the last axis of x, whose other axes are samples of one W."""
    if x.ndim == 1:
        return x @ kernel_FO
    return products(x.reshape(-1, x.shape[-1]), kernel_FO).reshape(*x.shape[:-1], -1)


def stair_product(state_PE: jax.Array, kernel_FO: jax.Array, runs: Runs, length: int) -> jax.Array:
    """x W of sequences of states, one position after the other, [S, O]; the positions that a sequence lacks are zeros.

    Each row of W is read once, for the sequences that have its position.

    Args:
        state_PE: of the tokens.
        kernel_FO: W, F = L E.
        runs: the sequences.
        length: L.
    """
    width, stairs = state_PE.shape[1], runs.stairs
    sizes = [(stair.far - stair.near) * width for stair in reversed(stairs)]
    ahead = (length - runs.longest) * width  # zeros for everybody
    parts = jax.lax.split(kernel_FO, [ahead, *sizes])[1:]
    blocks = blocks_of(state_PE, runs)
    out_SO = jnp.zeros((runs.sequences, kernel_FO.shape[1]), state_PE.dtype)
    for stair, block, part_FO in zip(stairs, blocks, reversed(parts), strict=True):
        made = products(block.reshape(block.shape[0], -1), part_FO)
        out_SO = out_SO + jnp.pad(made, ((stair.first, 0), (0, 0)))
    return out_SO


@jax.custom_vjp
def products(x_KF: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    """x_k W for all k, [K, O]."""
    return x_KF @ kernel_FO


@jax.custom_vjp
def _back(y_KO, kernel_FO):
    return _back_of(y_KO, kernel_FO)


@jax.custom_vjp
def _outer(x_KF, y_KO):
    return _outer_of(x_KF, y_KO)


products.defvjp(
    lambda x, kernel: (products(x, kernel), (x, kernel)),
    lambda given, y: (_back(y, given[1]), _outer(given[0], y)),
)
_back.defvjp(
    lambda y, kernel: (_back(y, kernel), (y, kernel)),
    lambda given, x: (products(x, given[1]), _outer(x, given[0])),
)
_outer.defvjp(
    lambda x, y: (_outer(x, y), (x, y)),
    lambda given, kernel: (_back(given[1], kernel), products(given[0], kernel)),
)


# Where tasks that are mapped have matrices of their own, few samples of each are better served by a kernel.


@jax.custom_batching.custom_vmap
def _back_of(y_KO, kernel_FO):
    return jax.lax.dot_general(y_KO, kernel_FO, (((1,), (1,)), ((), ())))


@_back_of.def_vmap
def _back_of_each(tasks, mapped, y, kernel):
    if not mapped[1]:
        return _back_of(y.reshape(-1, y.shape[2]), kernel).reshape(*y.shape[:2], -1), True
    y_UKO = y if mapped[0] else jnp.broadcast_to(y, (tasks, *y.shape))
    return times_transposed(y_UKO, kernel), True


@jax.custom_batching.custom_vmap
def _outer_of(x_KF, y_KO):
    return jax.lax.dot_general(x_KF, y_KO, (((0,), (0,)), ((), ())))


@_outer_of.def_vmap
def _outer_of_each(tasks, mapped, *both):
    x_UKF, y_UKO = (
        a if own else jnp.broadcast_to(a, (tasks, *a.shape))
        for a, own in zip(both, mapped, strict=True)
    )
    return sum_of_outer(x_UKF, y_UKO), True
