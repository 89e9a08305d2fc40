"""Losses as formulas, their masks and reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacsr_jax import losses
from metacsr_jax.config import LossConfig

log, exp = np.log, np.exp
POSITIVE_B = jnp.array([2.0, -1.0])
NEGATIVE_BN = jnp.array([[0.0, 3.0, -1.0], [0.5, 0.5, -1.0]])


def sigmoid(x):
    return 1 / (1 + exp(-x))


def test_bpr_is_minus_log_sigmoid_of_the_difference():
    result = losses.bpr(POSITIVE_B, NEGATIVE_BN)
    first = -(log(sigmoid(2.0)) + log(sigmoid(-1.0)) + log(sigmoid(3.0))) / 3
    second = -(2 * log(sigmoid(-1.5)) + log(sigmoid(0.0))) / 3
    np.testing.assert_allclose(result.mean_B, [first, second], rtol=1e-6)
    assert result.terms == 3


def test_sampled_softmax_is_a_cross_entropy_among_positive_and_negatives():
    result = losses.sampled_softmax(POSITIVE_B, NEGATIVE_BN)
    first = -log(exp(2.0) / (exp(2.0) + exp(0.0) + exp(3.0) + exp(-1.0)))
    second = -log(exp(-1.0) / (exp(-1.0) + 2 * exp(0.5) + exp(-1.0)))
    np.testing.assert_allclose(result.mean_B, [first, second], rtol=1e-6)
    assert result.terms == 1


def test_bce_has_label_one_for_the_positive_only():
    result = losses.bce(POSITIVE_B, NEGATIVE_BN)
    first = -(log(sigmoid(2.0)) + log(sigmoid(0.0)) + log(sigmoid(-3.0)) + log(sigmoid(1.0))) / 4
    second = -(log(sigmoid(-1.0)) + 2 * log(sigmoid(-0.5)) + log(sigmoid(1.0))) / 4
    np.testing.assert_allclose(result.mean_B, [first, second], rtol=1e-6)
    assert result.terms == 4


def test_gbce_raises_the_probability_of_the_positive_to_beta():
    """With a = 3 / 9 and t = 3/4, beta = a (t (1 - 1/a) + 1/a) = 1/2; with t = 1, beta = a."""
    for calibration, beta in ((0.75, 1 / 2), (1.0, 1 / 3)):
        result = losses.gbce(POSITIVE_B, NEGATIVE_BN, 10, calibration)
        first = log(sigmoid(2.0) ** beta) + log(1 - sigmoid(0.0))
        first += log(1 - sigmoid(3.0)) + log(1 - sigmoid(-1.0))
        second = log(sigmoid(-1.0) ** beta) + 2 * log(1 - sigmoid(0.5)) + log(1 - sigmoid(-1.0))
        np.testing.assert_allclose(result.mean_B, [-first / 4, -second / 4], rtol=1e-6)
        assert result.terms == 4


@pytest.mark.parametrize(("items", "calibration"), [(10, 0.0), (4, 0.0), (4, 0.75), (4, 1.0)])
def test_gbce_uncalibrated_or_against_every_item_is_bce(items, calibration):
    """Of four items, three negatives are all there are."""
    result = losses.gbce(POSITIVE_B, NEGATIVE_BN, items, calibration)
    plain = losses.bce(POSITIVE_B, NEGATIVE_BN)
    np.testing.assert_allclose(result.mean_B, plain.mean_B, rtol=1e-7)
    assert result.terms == plain.terms


@pytest.mark.parametrize("size", [80.0, 1e4])
def test_gbce_is_finite_at_large_logits(size):
    """Its gradients are the labels' errors, the positive's beta times."""
    logit_BN = size * jnp.array([[1.0, -1.0, 1.0, 0.0], [-1.0, 1.0, -1.0, -1.0]])

    def total(logit_BN):
        return jnp.sum(losses.gbce(logit_BN[:, 0], logit_BN[:, 1:], 10, 0.75).mean_B)

    value, gradient_BN = jax.value_and_grad(total)(logit_BN)
    np.testing.assert_allclose(value, (size + log(2) + size / 2 + size) / 4, rtol=1e-6)
    wanted_BN = np.array([[0, 0, 1, 0.5], [-0.5, 1, 0, 0]]) / 4
    np.testing.assert_allclose(gradient_BN, wanted_BN, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_softmax_over_the_catalogue_with_label_smoothing(smoothing):
    logit_BI = jnp.array([[1.0, 0.0, -2.0], [0.0, 0.0, 4.0]])
    result = losses.softmax(logit_BI, jnp.array([1, 2]), smoothing)
    p = exp(np.asarray(logit_BI)) / exp(np.asarray(logit_BI)).sum(axis=1, keepdims=True)
    label = (1 - smoothing) * np.array([[0, 1, 0], [0, 0, 1]]) + smoothing / 3
    np.testing.assert_allclose(result.mean_B, -(label * log(p)).sum(axis=1), rtol=1e-5)
    assert result.terms == 1


@given(st.floats(-50, 50, width=32))
def test_ranking_losses_do_not_see_a_common_shift(shift):
    for name in ("bpr", "sampled_softmax"):
        moved = losses.PAIRED[name](POSITIVE_B + shift, NEGATIVE_BN + shift).mean_B
        np.testing.assert_allclose(
            moved, losses.PAIRED[name](POSITIVE_B, NEGATIVE_BN).mean_B, atol=3e-5
        )


@pytest.mark.parametrize("name", ["bpr", "sampled_softmax", "bce", "softmax"])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_stay_finite_with_their_gradients(name, size):
    logit_BN = size * jnp.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0]])

    def total(logit_BN):
        if name == "softmax":
            return jnp.sum(losses.softmax(logit_BN, jnp.zeros(2, int), 0.1).mean_B)
        return jnp.sum(losses.PAIRED[name](logit_BN[:, 0], logit_BN[:, 1:]).mean_B)

    value, gradient = jax.value_and_grad(total)(logit_BN)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert value > size / 3  # the second sample is as wrong as can be
    assert np.asarray(gradient).any()


def test_reductions_are_those_of_eq_10_and_its_mean():
    result = losses.bpr(POSITIVE_B, NEGATIVE_BN)
    every_term = -log(sigmoid(np.asarray(POSITIVE_B)[:, None] - np.asarray(NEGATIVE_BN)))
    mask_B = jnp.array([False, True])
    for mask, chosen in (
        (None, every_term),
        (jnp.ones(2, bool), every_term),
        (mask_B, every_term[1:]),
    ):
        np.testing.assert_allclose(losses.reduce(result, mask, "sum"), chosen.sum(), rtol=1e-6)
        np.testing.assert_allclose(losses.reduce(result, mask, "mean"), chosen.mean(), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nothing_to_learn_from_gives_zero_without_gradient(reduction):
    def total(positive_B):
        return losses.reduce(losses.bpr(positive_B, NEGATIVE_BN), jnp.zeros(2, bool), reduction)

    value, gradient_B = jax.value_and_grad(total)(POSITIVE_B)
    assert value == 0 and gradient_B.tolist() == [0, 0]


def test_masked_samples_have_no_gradient():
    def total(positive_B):
        return losses.reduce(losses.bce(positive_B, NEGATIVE_BN), jnp.array([True, False]), "sum")

    gradient_B = jax.grad(total)(POSITIVE_B)
    assert gradient_B[0] == pytest.approx(sigmoid(2.0) - 1, rel=1e-5) and gradient_B[1] == 0


def test_only_the_catalogue_softmax_does_without_negatives():
    needs = [losses.needs_negatives(LossConfig(name=name)) for name in (*losses.PAIRED, "softmax")]
    assert needs == [True, True, True, False]
