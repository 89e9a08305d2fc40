"""A layer's product x W whose derivative for W comes out as W lies in memory, [F, O].

As `jax.vjp` has it, the derivative is made as [O, F] and turned round wherever it is added to something, which for W6's 2,560 rows costs
as much as the product. The three functions are the derivatives of one form, sum_k x_k^T W y_k; each one's derivatives are the other two.

Dimension key: B, K samples, L positions, E features of one, F features in, O out.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def product(x: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    """x W along the last axis of x, whose other axes are samples of one W."""
    if x.ndim == 1:
        return x @ kernel_FO
    return products(x.reshape(-1, x.shape[-1]), kernel_FO).reshape(*x.shape[:-1], -1)


def stair_product(
    state_BF: jax.Array, kernel_FO: jax.Array, runs: Sequence[tuple[int, int]], length: int
) -> jax.Array:
    """x W of sequences of states, one position after the other, [B, O], where the positions ahead are zeros.

    The positions that only longer sequences have are multiplied for those alone. Each row of W is read once.

    Args:
        state_BF: L positions each, shorter sequences first; F = L E.
        kernel_FO: W.
        runs: number of sequences, and latest positions of theirs that are not zeros; at least as many as in the run before.
        length: L.
    """
    state_BLE = state_BF.reshape(state_BF.shape[0], length, -1)
    width = state_BLE.shape[2]
    start, known, stairs = 0, 0, []
    for count, longest in runs:
        if longest > known:
            stairs.append((start, length - longest, length - known))
        start, known = start + count, longest
    ahead = length - known  # zeros for everybody
    sizes = [ahead * width, *((end - first) * width for _, first, end in reversed(stairs))]
    out_BO = jnp.zeros((state_BLE.shape[0], kernel_FO.shape[1]), state_BLE.dtype)
    parts = jax.lax.split(kernel_FO, sizes)[1:]
    for (start, first, end), part_FO in zip(stairs, reversed(parts), strict=True):
        block_KF = state_BLE[start:, first:end].reshape(-1, (end - first) * width)
        out_BO = out_BO + jnp.pad(products(block_KF, part_FO), ((start, 0), (0, 0)))
    return out_BO


@jax.custom_vjp
def products(x_KF: jax.Array, kernel_FO: jax.Array) -> jax.Array:
    """x_k W for all k, [K, O]."""
    return x_KF @ kernel_FO


@jax.custom_vjp
def _back(y_KO, kernel_FO):
    return jax.lax.dot_general(y_KO, kernel_FO, (((1,), (1,)), ((), ())))


@jax.custom_vjp
def _outer(x_KF, y_KO):
    return jax.lax.dot_general(x_KF, y_KO, (((0,), (0,)), ((), ())))


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
