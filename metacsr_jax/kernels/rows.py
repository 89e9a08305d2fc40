"""Rows of a table that lists of indices name, without a copy of them (what eq. 10's negatives and algorithm 1's neighbours need).

`row_dot`, `row_sum` and `row_outer` are the derivatives of one form, sum_bn weight[b, n] table[index[b, n]] . vector[b], for its three
factors; each one's derivatives are the other two.

Dimension key: I rows of the table, D = dim, B lists of N indices; M nodes, E edges.
"""

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.kernels.native import kernel


@jax.custom_vjp
def row_dot(table_ID: jax.Array, vector_BD: jax.Array, index_BN: jax.Array) -> jax.Array:
    """table[index[b, n]] . vector[b]

    Args:
        table_ID: rows.
        vector_BD: one for each list.
        index_BN: int32, 0 to I - 1.

    Returns:
        [B, N].
    """

    def plain(table_ID, vector_BD, index_BN):
        return jnp.einsum("bnd,bd->bn", table_ID[index_BN], vector_BD)

    result = jax.ShapeDtypeStruct(index_BN.shape, table_ID.dtype)
    return kernel("RowDot", plain, result, table_ID, vector_BD, index_BN)


@jax.custom_vjp
def row_sum(table_ID: jax.Array, weight_BN: jax.Array, index_BN: jax.Array) -> jax.Array:
    """sum_n weight[b, n] table[index[b, n]], [B, D]; arguments as of `row_dot`."""

    def plain(table_ID, weight_BN, index_BN):
        return jnp.einsum("bnd,bn->bd", table_ID[index_BN], weight_BN)

    result = jax.ShapeDtypeStruct((index_BN.shape[0], table_ID.shape[1]), table_ID.dtype)
    return kernel("RowSum", plain, result, table_ID, weight_BN, index_BN)


def row_outer(
    weight_BN: jax.Array, vector_BD: jax.Array, index_BN: jax.Array, rows: int
) -> jax.Array:
    """sum of weight[b, n] vector[b] over all b, n with index[b, n] = i, [I, D]; I is `rows`."""
    return _outer(rows)(weight_BN, vector_BD, index_BN)


def _outer(rows):
    @jax.custom_vjp
    def outer(weight_BN, vector_BD, index_BN):
        def plain(weight_BN, vector_BD, index_BN):
            added_BND = weight_BN[..., None] * vector_BD[:, None]
            return (
                jnp.zeros((rows, vector_BD.shape[1]), vector_BD.dtype).at[index_BN].add(added_BND)
            )

        if rows > index_BN.size:  # most rows are zeros, which XLA writes once for several such sums
            return plain(weight_BN, vector_BD, index_BN)
        result = jax.ShapeDtypeStruct((rows, vector_BD.shape[1]), vector_BD.dtype)
        return kernel("RowOuter", plain, result, weight_BN, vector_BD, index_BN)

    def backward(given, g_ID):
        weight_BN, vector_BD, index_BN = given
        d_weight_BN = row_dot(g_ID, vector_BD, index_BN)
        return d_weight_BN, row_sum(g_ID, weight_BN, index_BN), no_tangent(index_BN)

    outer.defvjp(lambda *given: (outer(*given), given), backward)
    return outer


def _dot_backward(given, g_BN):
    table_ID, vector_BD, index_BN = given
    d_table_ID = row_outer(g_BN, vector_BD, index_BN, table_ID.shape[0])
    return d_table_ID, row_sum(table_ID, g_BN, index_BN), no_tangent(index_BN)


def _sum_backward(given, g_BD):
    table_ID, weight_BN, index_BN = given
    d_table_ID = row_outer(weight_BN, g_BD, index_BN, table_ID.shape[0])
    return d_table_ID, row_dot(table_ID, g_BD, index_BN), no_tangent(index_BN)


row_dot.defvjp(lambda *given: (row_dot(*given), given), _dot_backward)
row_sum.defvjp(lambda *given: (row_sum(*given), given), _sum_backward)


def no_tangent(index: jax.Array) -> np.ndarray:
    """The derivative for integers."""
    return np.zeros(index.shape, jax.dtypes.float0)


@jax.custom_vjp
def neighbour_sum(
    table_SD: jax.Array,
    forth: tuple[jax.Array, jax.Array],
    back: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Sum of every node's neighbours' rows (AGG of algorithm 1, line 1).

    Args:
        table_SD: rows of the senders.
        forth: int32 [M + 1] and [E]: node m's neighbours are senders[starts[m]:starts[m + 1]].
        back: int32 [S + 1] and [E]: the same edges from the senders' side, which the derivative reads.

    Returns:
        [M, D].
    """
    start_M1, sender_E = forth
    nodes = start_M1.shape[0] - 1

    def plain(table_SD, start_M1, sender_E):
        edge_E = jnp.arange(sender_E.shape[0])
        receiver_E = jnp.searchsorted(start_M1, edge_E, side="right") - 1
        return jax.ops.segment_sum(table_SD[sender_E], receiver_E, nodes, indices_are_sorted=True)

    result = jax.ShapeDtypeStruct((nodes, table_SD.shape[1]), table_SD.dtype)
    return kernel("NeighbourSum", plain, result, table_SD, start_M1, sender_E)


def _neighbours_backward(given, g_MD):
    forth, back = given
    none = jax.tree.map(no_tangent, (forth, back))
    return neighbour_sum(g_MD, back, forth), *none


neighbour_sum.defvjp(
    lambda table_SD, forth, back: (neighbour_sum(table_SD, forth, back), (forth, back)),
    _neighbours_backward,
)
