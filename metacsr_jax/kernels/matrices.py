"""Products of a few samples with matrices of their own, as served users have.

Dimension key: U tasks with a matrix each, K samples of a task, F rows and O columns of its matrix.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.kernels.native import kernel

FEW = 16  # samples up to which the kernels are faster than XLA's products (docs/performance.md)


def times_transposed(y_UKO: jax.Array, matrix_UFO: jax.Array) -> jax.Array:
    """y W^T of every task, [U, K, F]."""

    def plain(y_UKO, matrix_UFO):
        return jnp.einsum("uko,ufo->ukf", y_UKO, matrix_UFO)

    if y_UKO.shape[1] > FEW:
        return plain(y_UKO, matrix_UFO)
    result = jax.ShapeDtypeStruct((*y_UKO.shape[:2], matrix_UFO.shape[1]), y_UKO.dtype)
    return kernel("TimesTransposed", plain, result, y_UKO, matrix_UFO)


def sum_of_outer(x_UKF: jax.Array, y_UKO: jax.Array) -> jax.Array:
    """x^T y of every task, [U, F, O]."""

    def plain(x_UKF, y_UKO):
        return jnp.einsum("ukf,uko->ufo", x_UKF, y_UKO)

    if x_UKF.shape[1] > FEW:
        return plain(x_UKF, y_UKO)
    result = jax.ShapeDtypeStruct((x_UKF.shape[0], x_UKF.shape[2], y_UKO.shape[2]), x_UKF.dtype)
    return kernel("SumOfOuter", plain, result, x_UKF, y_UKO)
