"""Losses of a sample against negatives or the whole catalogue (paper: eq. 10 as read in docs/reading.md).

Dimension key: B samples, N negatives, I catalogue items.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metacsr_jax.config import LossConfig


class SampleLosses(NamedTuple):
    """Losses before reduction.

    Attributes:
        mean_B: loss of each sample, averaged over the terms eq. 10 sums (one per negative).
        terms: how many terms that were, so that `terms * mean_B` is the sum.
    """

    mean_B: jax.Array
    terms: int


def bpr(positive_B: jax.Array, negative_BN: jax.Array) -> SampleLosses:
    """-log sigmoid(s_j - s_j-), eq. 10 as Rendle et al. (2009) have it."""
    return SampleLosses(
        jnp.mean(jax.nn.softplus(negative_BN - positive_B[:, None]), axis=1), negative_BN.shape[1]
    )


def sampled_softmax(positive_B: jax.Array, negative_BN: jax.Array) -> SampleLosses:
    """Cross-entropy of the positive among itself and the negatives."""
    logit = jnp.concatenate([positive_B[:, None], negative_BN], axis=1)
    return SampleLosses(jax.nn.logsumexp(logit, axis=1) - positive_B, 1)


def bce(positive_B: jax.Array, negative_BN: jax.Array) -> SampleLosses:
    """Binary cross-entropy on logits: label 1 for the positive, 0 for every negative."""
    terms = 1 + negative_BN.shape[1]
    total_B = jax.nn.softplus(-positive_B) + jnp.sum(jax.nn.softplus(negative_BN), axis=1)
    return SampleLosses(total_B / terms, terms)


def gbce(
    positive_B: jax.Array, negative_BN: jax.Array, items: int, calibration: float
) -> SampleLosses:
    """Binary cross-entropy that undoes the overconfidence of sampled negatives (Petrov, Macdonald, RecSys 2023, eqs. 10, 13).

    The positive's probability is raised to beta = a (t (1 - 1/a) + 1/a), with a = N / (I - 1) the share of the negatives drawn, at most 1.

    Args:
        positive_B: logits.
        negative_BN: logits of uniform negatives.
        items: I, at least 2.
        calibration: t; 0 is binary cross-entropy, 1 is fully calibrated.
    """
    share = min(
        negative_BN.shape[1] / (items - 1), 1.0
    )  # drawn with replacement, there may be more
    beta = calibration * (share - 1) + 1
    terms = 1 + negative_BN.shape[1]
    total_B = beta * jax.nn.softplus(-positive_B) + jnp.sum(jax.nn.softplus(negative_BN), axis=1)
    return SampleLosses(total_B / terms, terms)


def softmax(logit_BI: jax.Array, target_B: jax.Array, label_smoothing: float = 0.0) -> SampleLosses:
    """Cross-entropy over the whole catalogue.

    Args:
        logit_BI: scores of all items.
        target_B: the positive's code, 0 to I - 1.
        label_smoothing: share of the label spread evenly over the catalogue, 0 to 1.
    """
    positive_B = jnp.take_along_axis(logit_BI, target_B[:, None], axis=1)[:, 0]
    if label_smoothing:
        even_B = jnp.mean(logit_BI, axis=1)
        positive_B = (1 - label_smoothing) * positive_B + label_smoothing * even_B
    return SampleLosses(jax.nn.logsumexp(logit_BI, axis=1) - positive_B, 1)


def drawn_softmax(
    positive_B: jax.Array,
    candidate_BN: jax.Array,
    is_target_BN: jax.Array,
    items: jax.Array,
    label_smoothing: float = 0.0,
) -> SampleLosses:
    """Cross-entropy over the whole catalogue, its normaliser estimated from uniformly drawn items (Bengio, Senecal, 2008).

    The target stands for itself, each of the n candidates that are not the target for (I - 1) / n of the others: their logits are
    raised by the logarithm of that. With all items drawn it is `softmax`.

    Args:
        positive_B: logits of the targets.
        candidate_BN: logits of distinct items drawn uniformly.
        is_target_BN: whether a candidate is the target.
        items: I.
        label_smoothing: as in `softmax`.
    """
    others_B1 = jnp.maximum(jnp.sum(~is_target_BN, axis=1, keepdims=True), 1)
    raised_BN = candidate_BN + jnp.log((items - 1) / others_B1)
    raised_BN = jnp.where(is_target_BN, -jnp.inf, raised_BN)
    logit_BN = jnp.concatenate([positive_B[:, None], raised_BN], axis=1)
    normaliser_B = jax.nn.logsumexp(logit_BN, axis=1)
    if label_smoothing:
        even_B = jnp.mean(candidate_BN, axis=1)
        positive_B = (1 - label_smoothing) * positive_B + label_smoothing * even_B
    return SampleLosses(normaliser_B - positive_B, 1)


PAIRED = {"bpr": bpr, "sampled_softmax": sampled_softmax, "bce": bce}


def needs_negatives(config: LossConfig) -> bool:
    """Whether the loss ranks the target against drawn negatives instead of the catalogue."""
    return config.name != "softmax"


def masked_mean(loss_B: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Mean of the losses where `mask_B` is True, a scalar; 0 where it nowhere is."""
    return jnp.sum(jnp.where(mask_B, loss_B, 0.0)) / jnp.maximum(jnp.sum(mask_B), 1)


def reduce(losses: SampleLosses, mask_B: jax.Array | None, reduction: str) -> jax.Array:
    """Sum over samples and terms, or mean over both; samples that are masked out count nothing.

    Args:
        losses: one per sample.
        mask_B: bool, False for samples that do not exist; None: all exist. All False gives 0.
        reduction: "sum" (eq. 10) or "mean".

    Returns:
        A scalar.
    """
    if reduction == "mean":
        return jnp.mean(losses.mean_B) if mask_B is None else masked_mean(losses.mean_B, mask_B)
    mean_B = losses.mean_B if mask_B is None else jnp.where(mask_B, losses.mean_B, 0.0)
    return losses.terms * jnp.sum(mean_B)
