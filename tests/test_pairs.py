"""The fast pair scores against the paper's form: value, first and second derivatives, and far-apart arguments.

Dimension key: B sequences, L positions, A = width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.models import pairs
from metacsr_jax.models.pairs import UNROLLED, plain_pair_scores
from metacsr_jax.runs import evenly

NAMES = ("from", "to", "weight")


def random_arguments(length, width=5, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    return tuple(
        np.float32(scale * rng.standard_normal(shape))
        for shape in ((length, width), (length, width), (width,))
    )


def pair_scores(from_LA, to_LA, weight_A):
    """Of one sequence, [m, n]."""
    length = from_LA.shape[0]
    end_P2A = jnp.stack([from_LA, to_LA], axis=1)
    return pairs.pair_scores(end_P2A, weight_A, evenly(1, length)).reshape(length, length)


@pytest.mark.parametrize("length", [1, 4, 10, UNROLLED + 3])
def test_values_are_those_of_the_plain_form(length):
    given = random_arguments(length)
    np.testing.assert_allclose(pair_scores(*given), plain_pair_scores(*given), atol=2e-6)


@pytest.mark.parametrize("length", [1, 4, UNROLLED + 3])
@pytest.mark.parametrize("argument", range(3), ids=NAMES)
def test_first_derivatives_are_those_of_the_plain_form(length, argument):
    given = random_arguments(length)
    g_LL = np.random.default_rng(1).standard_normal((length, length)).astype(np.float32)

    def pulled(scores):
        return jax.grad(lambda *a: jnp.sum(g_LL * scores(*a)), argument)(*given)

    np.testing.assert_allclose(pulled(pair_scores), pulled(plain_pair_scores), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 4, UNROLLED + 3])
def test_second_derivatives_are_those_of_the_plain_form(length):
    """Reverse over reverse, through a function that is not linear in the scores: the way an inner step is differentiated."""
    given = random_arguments(length, scale=1.0)
    direction = random_arguments(length, seed=2, scale=1.0)

    def twice(scores):
        def slope(*a):
            gradient = jax.grad(lambda *b: jnp.mean(jnp.tanh(scores(*b)) ** 2), (0, 1, 2))(*a)
            return sum(jnp.vdot(u, g) for u, g in zip(direction, gradient, strict=True))

        return jax.grad(slope, (0, 1, 2))(*given)

    for fast, plain in zip(twice(pair_scores), twice(plain_pair_scores), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)


def test_a_batch_is_its_sequences():
    batch = [random_arguments(4, seed=seed)[:2] for seed in range(3)]
    weight_A = random_arguments(4)[2]
    from_BLA, to_BLA = (np.stack(part) for part in zip(*batch, strict=True))
    score_BLL = jax.vmap(pair_scores, (0, 0, None))(from_BLA, to_BLA, weight_A)
    each = np.stack([plain_pair_scores(*pair, weight_A) for pair in batch])
    np.testing.assert_allclose(score_BLL, each, atol=2e-6)
    end_P2A = np.stack([from_BLA, to_BLA], axis=2).reshape(-1, 2, from_BLA.shape[2])
    score_Q = pairs.pair_scores(end_P2A, weight_A, evenly(3, 4))
    np.testing.assert_allclose(score_Q, each.reshape(-1), atol=2e-6)


FAR = [(far, near) for far in (-70.0, -30.0, 30.0, 70.0) for near in (-4.0, 0.0, 4.0)]


@pytest.mark.parametrize(("far", "near"), [*FAR, (80.0, 0.0)])
def test_saturated_pairs_are_exact_up_to_a_distance_of_70(far, near):
    from_LA = np.float32([[far], [0.0]])
    to_LA = np.float32([[0.0], [near - far]])
    expected = jax.nn.sigmoid(from_LA[:, None, 0] + to_LA[None, :, 0])
    np.testing.assert_allclose(
        pair_scores(from_LA, to_LA, np.ones(1, np.float32)), expected, atol=1e-6
    )


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_furthest_arguments_stay_finite_in_every_derivative(sign):
    from_LA = np.float32([[sign * 500.0], [0.0], [sign * 90.0]])
    to_LA = np.float32([[0.0], [-sign * 500.0], [sign * 500.0]])
    weight_A = np.ones(1, np.float32)

    def total(*given):
        return jnp.sum(pair_scores(*given) ** 2)

    def slope(*given):
        return sum(jnp.sum(g) for g in jax.grad(total, (0, 1, 2))(*given))

    for function in (jax.grad(total, (0, 1, 2)), jax.grad(slope, (0, 1, 2))):
        assert all(np.isfinite(g).all() for g in function(from_LA, to_LA, weight_A))
