"""Items mixed by attention weights, earlier and later ones apart (eqs. 5 to 7).

`mix`, `unmix` and `mix_dot` are the derivatives of one form, sum over m != n of weight[m, n] item[m] . mixed[n, m > n], for its three
factors; each one's derivatives are the other two. A pair serves one direction only, so that both directions share one matrix of
weights.

Dimension key: P tokens and Q pairs of sequences that come in runs (`metacsr_jax.runs`); L positions of one sequence (m: attended, n:
attending), D = dim.
"""

from functools import partial

import jax
import jax.numpy as jnp

from metacsr_jax.kernels.native import kernel
from metacsr_jax.runs import Runs, join_pairs, join_tokens, split_pairs, split_tokens


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def mix(weight_Q: jax.Array, item_PD: jax.Array, runs: Runs) -> jax.Array:
    """E_fw and E_bw: sums of weight[m, n] item[m] over the earlier m, and over the later ones.

    Args:
        weight_Q: [m, n] of each sequence; the diagonal is not read.
        item_PD: item vectors.
        runs: the sequences.

    Returns:
        [P, 2, D].
    """

    def one(weight_LL, item_LD):
        return jnp.stack(
            [jnp.einsum("mn,md->nd", w, item_LD) for w in _directed(weight_LL)], axis=1
        )

    plain = _tokens_by(one, runs)
    result = jax.ShapeDtypeStruct((runs.tokens, 2, item_PD.shape[1]), item_PD.dtype)
    return kernel("Mix", plain, result, weight_Q, item_PD, **runs.attributes)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def unmix(weight_Q: jax.Array, mixed_P2D: jax.Array, runs: Runs) -> jax.Array:
    """sum_n weight[m, n] mixed[n, m > n], [P, D]: the derivative of `mix` for the items."""

    def one(weight_LL, mixed_L2D):
        parts = zip(_directed(weight_LL), (mixed_L2D[:, 0], mixed_L2D[:, 1]), strict=True)
        return sum(jnp.einsum("mn,nd->md", w, mixed_LD) for w, mixed_LD in parts)

    plain = _tokens_by(one, runs)
    result = jax.ShapeDtypeStruct(mixed_P2D.shape[::2], mixed_P2D.dtype)
    return kernel("Unmix", plain, result, weight_Q, mixed_P2D, **runs.attributes)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def mix_dot(item_PD: jax.Array, mixed_P2D: jax.Array, runs: Runs) -> jax.Array:
    """item[m] . mixed[n, m > n], [Q], 0 on the diagonal: the derivative of `mix` for the weights."""

    def one(item_LD, mixed_L2D):
        both = (jnp.einsum("md,nd->mn", item_LD, mixed_L2D[:, j]) for j in (0, 1))
        return sum(_of_direction(dot_LL, j) for j, dot_LL in enumerate(both))

    def plain(item_PD, mixed_P2D):
        return join_pairs(_each(one, split_tokens(item_PD, runs), split_tokens(mixed_P2D, runs)))

    result = jax.ShapeDtypeStruct((runs.pairs,), item_PD.dtype)
    return kernel("MixDot", plain, result, item_PD, mixed_P2D, **runs.attributes)


mix.defvjp(
    lambda weight, item, runs: (mix(weight, item, runs), (weight, item)),
    lambda runs, given, g_P2D: (mix_dot(given[1], g_P2D, runs), unmix(given[0], g_P2D, runs)),
)
unmix.defvjp(
    lambda weight, mixed, runs: (unmix(weight, mixed, runs), (weight, mixed)),
    lambda runs, given, g_PD: (mix_dot(g_PD, given[1], runs), mix(given[0], g_PD, runs)),
)
mix_dot.defvjp(
    lambda item, mixed, runs: (mix_dot(item, mixed, runs), (item, mixed)),
    lambda runs, given, g_Q: (unmix(g_Q, given[1], runs), mix(g_Q, given[0], runs)),
)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def side_sum(x_Q: jax.Array, runs: Runs) -> jax.Array:
    """sum of x[k, n] over the k on m's side of n, earlier or later, for every pair [m, n]; 0 on the diagonal. Its own derivative."""
    return _over_side("SideSum", jnp.sum, 0.0, x_Q, runs)


side_sum.defvjp(
    lambda x_Q, runs: (side_sum(x_Q, runs), None), lambda runs, _, g_Q: (side_sum(g_Q, runs),)
)


def side_max(x_Q: jax.Array, runs: Runs) -> jax.Array:
    """The maximum over the same; a constant to derivatives."""
    return _over_side("SideMax", jnp.max, -jnp.inf, jax.lax.stop_gradient(x_Q), runs)


def side_softmax(score_Q: jax.Array, allowed_Q: jax.Array, runs: Runs) -> jax.Array:
    """Softmax over the allowed m on either side of n; a side without any yields zeros, in value and derivatives.

    Args:
        score_Q: [m, n] of each sequence, finite.
        allowed_Q: bool; nowhere on the diagonal.
        runs: the sequences.

    Returns:
        Weights of both sides [Q], zero where not allowed.
    """
    top_Q = side_max(jnp.where(allowed_Q, score_Q, -1e30), runs)
    weight_Q = jnp.where(allowed_Q, jnp.exp(jnp.where(allowed_Q, score_Q - top_Q, 0.0)), 0.0)
    total_Q = side_sum(weight_Q, runs)
    return weight_Q / jnp.where(total_Q > 0, total_Q, 1.0)


def _over_side(name, reduce, start, x_Q, runs):
    def one(x_LL):
        sides = [
            _of_direction(jnp.broadcast_to(reduce(side_LL, axis=0), side_LL.shape), direction)
            for direction, side_LL in enumerate(_directed(x_LL, start))
        ]
        return sides[0] + sides[1]

    def plain(x_Q):
        return join_pairs(_each(one, split_pairs(x_Q, runs)))

    result = jax.ShapeDtypeStruct(x_Q.shape, x_Q.dtype)
    return kernel(name, plain, result, x_Q, **runs.attributes)


def _tokens_by(one, runs):
    """(weight_Q, x_P) -> tokens, where `one` makes them of one sequence's."""

    def plain(weight_Q, x_P):
        return join_tokens(_each(one, split_pairs(weight_Q, runs), split_tokens(x_P, runs)), runs)

    return plain


def _each(one, *by_run):
    """A function of one sequence on those of every run."""
    return [jax.vmap(one)(*given) for given in zip(*by_run, strict=True)]


def _directed(square_LL, rest=0.0):
    return [_of_direction(square_LL, direction, rest) for direction in (0, 1)]


def _of_direction(square_LL, direction, rest=0.0):
    position_L = jnp.arange(square_LL.shape[0])
    earlier_LL = position_L[:, None] < position_L[None, :]
    return jnp.where((earlier_LL, earlier_LL.T)[direction], square_LL, rest)
