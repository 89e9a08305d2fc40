"""Items mixed by attention weights, earlier and later ones apart (eqs. 5 to 7).

The three functions are the derivatives of one form, sum over m != n of weight[m, n] item[m] . mixed[n, m > n], for its three factors;
each one's derivatives are the other two. A pair serves one direction only, so that both directions share one matrix of weights.

Dimension key: L positions (m: attended, n: attending), D = dim.
"""

import jax
import jax.numpy as jnp

from metacsr_jax.kernels.native import kernel


@jax.custom_vjp
def mix(weight_LL: jax.Array, item_LD: jax.Array) -> jax.Array:
    """E_fw and E_bw: sums of weight[m, n] item[m] over the earlier m, and over the later ones.

    Args:
        weight_LL: [m, n]; the diagonal is not read.
        item_LD: item vectors.

    Returns:
        [L, 2, D].
    """

    def plain(weight_LL, item_LD):
        return jnp.stack(
            [jnp.einsum("mn,md->nd", w, item_LD) for w in _directed(weight_LL)], axis=1
        )

    length, dim = item_LD.shape
    result = jax.ShapeDtypeStruct((length, 2, dim), item_LD.dtype)
    return kernel("Mix", plain, result, weight_LL, item_LD)


@jax.custom_vjp
def unmix(weight_LL: jax.Array, mixed_L2D: jax.Array) -> jax.Array:
    """sum_n weight[m, n] mixed[n, m > n], [L, D]: the derivative of `mix` for the items."""

    def plain(weight_LL, mixed_L2D):
        parts = zip(_directed(weight_LL), (mixed_L2D[:, 0], mixed_L2D[:, 1]), strict=True)
        return sum(jnp.einsum("mn,nd->md", w, mixed_LD) for w, mixed_LD in parts)

    result = jax.ShapeDtypeStruct(mixed_L2D.shape[::2], mixed_L2D.dtype)
    return kernel("Unmix", plain, result, weight_LL, mixed_L2D)


@jax.custom_vjp
def mix_dot(item_LD: jax.Array, mixed_L2D: jax.Array) -> jax.Array:
    """item[m] . mixed[n, m > n], [L, L], 0 on the diagonal: the derivative of `mix` for the weights."""

    def plain(item_LD, mixed_L2D):
        both = (jnp.einsum("md,nd->mn", item_LD, mixed_L2D[:, j]) for j in (0, 1))
        return sum(_of_direction(dot_LL, j) for j, dot_LL in enumerate(both))

    length = item_LD.shape[0]
    result = jax.ShapeDtypeStruct((length, length), item_LD.dtype)
    return kernel("MixDot", plain, result, item_LD, mixed_L2D)


mix.defvjp(
    lambda *given: (mix(*given), given),
    lambda given, g_L2D: (mix_dot(given[1], g_L2D), unmix(given[0], g_L2D)),
)
unmix.defvjp(
    lambda *given: (unmix(*given), given),
    lambda given, g_LD: (mix_dot(g_LD, given[1]), mix(given[0], g_LD)),
)
mix_dot.defvjp(
    lambda *given: (mix_dot(*given), given),
    lambda given, g_LL: (unmix(g_LL, given[1]), mix(g_LL, given[0])),
)


@jax.custom_vjp
def side_sum(x_LL: jax.Array) -> jax.Array:
    """sum of x[k, n] over the k on m's side of n, earlier or later, for every pair [m, n]; 0 on the diagonal. Its own derivative."""
    return _over_side("SideSum", jnp.sum, 0.0, x_LL)


side_sum.defvjp(lambda x_LL: (side_sum(x_LL), None), lambda _, g_LL: (side_sum(g_LL),))


def side_max(x_LL: jax.Array) -> jax.Array:
    """The maximum over the same; a constant to derivatives."""
    return _over_side("SideMax", jnp.max, -jnp.inf, jax.lax.stop_gradient(x_LL))


def side_softmax(score_LL: jax.Array, allowed_LL: jax.Array) -> jax.Array:
    """Softmax over the allowed m on either side of n; a side without any yields zeros, in value and derivatives.

    Args:
        score_LL: [m, n], finite.
        allowed_LL: bool; the diagonal is never allowed.

    Returns:
        Weights of both sides [m, n], zero where not allowed.
    """
    allowed_LL = allowed_LL & ~jnp.eye(score_LL.shape[0], dtype=bool)
    top_LL = side_max(jnp.where(allowed_LL, score_LL, -1e30))
    weight_LL = jnp.where(allowed_LL, jnp.exp(jnp.where(allowed_LL, score_LL - top_LL, 0.0)), 0.0)
    total_LL = side_sum(weight_LL)
    return weight_LL / jnp.where(total_LL > 0, total_LL, 1.0)


def _over_side(name, reduce, start, x_LL):
    def plain(x_LL):
        sides = [
            _of_direction(jnp.broadcast_to(reduce(side_LL, axis=0), side_LL.shape), direction)
            for direction, side_LL in enumerate(_directed(x_LL, start))
        ]
        return sides[0] + sides[1]

    return kernel(name, plain, jax.ShapeDtypeStruct(x_LL.shape, x_LL.dtype), x_LL)


def _directed(square_LL, rest=0.0):
    return [_of_direction(square_LL, direction, rest) for direction in (0, 1)]


def _of_direction(square_LL, direction, rest=0.0):
    position_L = jnp.arange(square_LL.shape[0])
    earlier_LL = position_L[:, None] < position_L[None, :]
    return jnp.where((earlier_LL, earlier_LL.T)[direction], square_LL, rest)
