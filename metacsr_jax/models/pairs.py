"""Scores of pairs W3^T sigmoid(q_m + k_n) (eq. 2) without the L x L x A tensor of what is under the sum.

The tensor is the largest of the model and, written out and read again by every derivative, costs more than all the products together.
Here value, first and second derivative are sums that are taken while the sigmoid is computed, and sigmoid(q + k) =
1 / (1 + exp(-q) exp(-k)) takes one division a pair instead of an exponential.

Dimension key: P tokens and Q pairs of S sequences that come in runs (`metacsr_jax.runs`); L positions of one sequence (m: attended, n:
attending), A = width.
"""

from functools import partial

import jax
import jax.numpy as jnp

from metacsr_jax.kernels.native import kernel
from metacsr_jax.runs import Runs, join_pairs, join_tokens, split_pairs, split_tokens

UNROLLED = 32  # up to so many positions a sum over them is written out term by term, which fuses into one loop


def plain_pair_scores(from_LA: jax.Array, to_LA: jax.Array, weight_A: jax.Array) -> jax.Array:
    """The same as `pair_scores` of one sequence as the paper writes it, [m, n]; what the fast form is tested against."""
    return jax.nn.sigmoid(from_LA[:, None] + to_LA[None, :]) @ weight_A


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pair_scores(end_P2A: jax.Array, weight_A: jax.Array, runs: Runs) -> jax.Array:
    """sum_a weight_a sigmoid(from_ma + to_na) for all pairs [m, n] of each sequence.

    Differentiable as often as wanted in reverse mode; the first and second derivative store nothing of size L x L x A.
    Equal to `plain_pair_scores` up to rounding where no feature of "from" is further than 70 from that of the sequence's latest
    position; beyond, a pair may be wrong, from 85 on by all of its weight, but is finite.

    Args:
        end_P2A: from = W4 i_m and to = W5 i_n.
        weight_A: W3.
        runs: the sequences.

    Returns:
        Scores [Q].
    """

    def plain(end_P2A, weight_A):
        one = jax.vmap(_score, (0, None))
        return join_pairs([one(end_SL2A, weight_A) for end_SL2A in split_tokens(end_P2A, runs)])

    result = jax.ShapeDtypeStruct((runs.pairs,), end_P2A.dtype)
    return kernel("PairScore", plain, result, end_P2A, weight_A, **runs.attributes)


def _forward(end_P2A, weight_A, runs):
    # By its own name, so that a second derivative finds the rule again and not what is under it.
    return pair_scores(end_P2A, weight_A, runs), (end_P2A, weight_A)


def _backward(runs, given, score_Q):
    return _pull(*given, score_Q, runs)


pair_scores.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pull(end_P2A, weight_A, g_Q, runs):
    """Derivatives of sum(g * pair_scores) for the two arguments."""

    def one(end_L2A, weight_A, g_LL):
        a_LA, b_LA, g_LL = _kept(*_exponentials(end_L2A), g_LL)

        def term(s, g):
            return g * (s - s * s)

        d_from_LA = _over_n(a_LA, b_LA, g_LL, term) * weight_A[None]
        d_to_LA = _over_m(a_LA, b_LA, g_LL, term) * weight_A[None]
        d_weight_A = _total(_over_n(a_LA, b_LA, g_LL, lambda s, g: g * s))
        d_from_LA, d_to_LA, d_weight_A = _kept(d_from_LA, d_to_LA, d_weight_A)
        return jnp.stack([d_from_LA, d_to_LA], axis=1), d_weight_A

    def plain(end_P2A, weight_A, g_Q):
        by_run = [
            jax.vmap(one, (0, None, 0))(end_SL2A, weight_A, g_SLL)
            for end_SL2A, g_SLL in zip(
                split_tokens(end_P2A, runs), split_pairs(g_Q, runs), strict=True
            )
        ]
        d_end, d_weight = zip(*by_run, strict=True)
        return join_tokens(d_end, runs), jnp.concatenate(d_weight)

    result = (
        jax.ShapeDtypeStruct(end_P2A.shape, end_P2A.dtype),
        jax.ShapeDtypeStruct((runs.sequences, *weight_A.shape), weight_A.dtype),
    )
    given = (end_P2A, weight_A, g_Q)
    d_end_P2A, d_weight_SA = kernel("PairPull", plain, result, *given, **runs.attributes)
    return d_end_P2A, jnp.sum(d_weight_SA, axis=0)


def _pull_forward(end_P2A, weight_A, g_Q, runs):
    return _pull(end_P2A, weight_A, g_Q, runs), (end_P2A, weight_A, g_Q)


def _pull_backward(runs, given, cotangents):
    """Second derivative: of sum(u * d_from) + sum(v * d_to) + sum(r * d_weight).

    With s = sigmoid, s' = s (1 - s), s'' = s' (1 - 2 s) and p = (u_m + v_n) w the sum is sum_mn g_mn sum_a (p s' + r s).
    """

    def one(end_L2A, weight_A, g_LL, uv_L2A, r_A):
        u_LA, v_LA = uv_L2A[:, 0], uv_L2A[:, 1]
        a_LA, b_LA, uw_LA, vw_LA, u_LA, v_LA, g_LL, r_A = _kept(
            *_exponentials(end_L2A),
            *(u_LA * weight_A[None], v_LA * weight_A[None], u_LA, v_LA, g_LL, r_A),
        )

        def slope(s, g, p):  # of p s' + r s
            first = s - s * s
            return g * first * (p * (1 - 2 * s) + r_A[None])

        d_from_LA = _over_n(a_LA, b_LA, g_LL, slope, uw_LA, vw_LA)
        d_to_LA = _over_m(a_LA, b_LA, g_LL, slope, uw_LA, vw_LA)
        d_weight_A = _total(
            _over_n(a_LA, b_LA, g_LL, lambda s, g, p: g * (s - s * s) * p, u_LA, v_LA)
        )
        d_g_LL = _over_a(
            a_LA, b_LA, lambda s, p: (s - s * s) * p + _along_last(r_A, s) * s, uw_LA, vw_LA
        )
        d_from_LA, d_to_LA, d_weight_A, d_g_LL = _kept(d_from_LA, d_to_LA, d_weight_A, d_g_LL)
        return jnp.stack([d_from_LA, d_to_LA], axis=1), d_weight_A, d_g_LL

    def plain(end_P2A, weight_A, g_Q, uv_P2A, r_A):
        parts = (split_tokens(end_P2A, runs), split_pairs(g_Q, runs), split_tokens(uv_P2A, runs))
        by_run = [
            jax.vmap(one, (0, None, 0, 0, None))(end, weight_A, g, uv, r_A)
            for end, g, uv in zip(*parts, strict=True)
        ]
        d_end, d_weight, d_g = zip(*by_run, strict=True)
        return join_tokens(d_end, runs), jnp.concatenate(d_weight), join_pairs(d_g)

    end_P2A, weight_A, g_Q = given
    result = (
        jax.ShapeDtypeStruct(end_P2A.shape, end_P2A.dtype),
        jax.ShapeDtypeStruct((runs.sequences, *weight_A.shape), weight_A.dtype),
        jax.ShapeDtypeStruct(g_Q.shape, g_Q.dtype),
    )
    d_end_P2A, d_weight_SA, d_g_Q = kernel(
        "PairPullPull", plain, result, *given, *cotangents, **runs.attributes
    )
    return d_end_P2A, jnp.sum(d_weight_SA, axis=0), d_g_Q


_pull.defvjp(_pull_forward, _pull_backward)


def _exponentials(end_L2A):
    """exp(-q) and exp(-k), both counted from the latest q, so that only one of them can overflow: 0 times infinity is no number."""
    from_LA, to_LA = end_L2A[:, 0], end_L2A[:, 1]
    latest_A = from_LA[-1]
    apart_LA = jnp.clip(from_LA - latest_A[None], -85.0, 85.0)
    return _kept(jnp.exp(-apart_LA), jnp.exp(-(to_LA + latest_A[None])))


def _kept(*arrays):
    """Computes the arrays once; without it a compiler puts what made them into every term of the sums that read them."""
    return jax.lax.optimization_barrier(arrays)


def _along_last(weight_A, like):
    return weight_A.reshape((1,) * (like.ndim - 1) + weight_A.shape)


def _sigmoid(a, b):
    return 1.0 / (1.0 + a * b)


def _score(end_L2A, weight_A):
    a_LA, b_LA = _exponentials(end_L2A)
    return _over_a(a_LA, b_LA, lambda s: s * _along_last(weight_A, s))


def _over_n(a_LA, b_LA, g_LL, term, u_LA=None, v_LA=None):
    """sum_n term(s_mn, g_mn, u_m + v_n) -> [m, a]."""
    a_LA, b_LA = _kept(a_LA, b_LA)  # two sums that share their sigmoids would have them stored
    vs_LA = b_LA if v_LA is None else v_LA

    def one(total_LA, of_n):
        b_A, g_L, v_A = of_n
        more = () if u_LA is None else (u_LA + v_A[None],)
        return total_LA + term(_sigmoid(a_LA, b_A[None]), g_L[:, None], *more), None

    length = a_LA.shape[0]
    return jax.lax.scan(one, jnp.zeros_like(a_LA), (b_LA, g_LL.T, vs_LA), unroll=-(-length // 2))[0]


def _over_m(a_LA, b_LA, g_LL, term, u_LA=None, v_LA=None):
    """sum_m term(s_mn, g_mn, u_m + v_n) -> [n, a]."""
    return _over_n(b_LA, a_LA, g_LL.T, term, v_LA, u_LA)


def _over_a(a_LA, b_LA, term, u_LA=None, v_LA=None):
    """sum_a term(s_mn, u_m + v_n) -> [m, n]."""

    def tile(n):
        more = () if u_LA is None else (u_LA + v_LA[n][None],)
        return term(_sigmoid(a_LA, b_LA[n][None]), *more)

    # A sum along the fastest axis is a slow loop on a CPU, a product with ones is not.
    def product(*_):
        ones_A = jnp.ones(a_LA.shape[1], a_LA.dtype)
        return jnp.stack([tile(n) @ ones_A for n in range(a_LA.shape[0])], axis=1)

    def whole(*_):
        more = () if u_LA is None else (u_LA[:, None] + v_LA[None],)
        return jnp.sum(term(_sigmoid(a_LA[:, None], b_LA[None]), *more), axis=-1)

    if a_LA.shape[0] > UNROLLED:
        return whole()
    return jax.lax.platform_dependent(a_LA, b_LA, cpu=product, default=whole)


def _total(x_LA):
    """sum over positions, written out for the same reason."""
    if x_LA.shape[0] > UNROLLED:
        return jnp.sum(x_LA, axis=0)
    (x_LA,) = _kept(x_LA)
    return sum(x_LA[m] for m in range(x_LA.shape[0]))
