"""A meta-batch part by part: the same result, and sizes by hand.

Dimension key: T tasks, K samples.
"""

import jax
import numpy as np
import pytest

from metacsr_jax.config import MetaConfig
from metacsr_jax.meta import make_meta_learner
from metacsr_jax.models import metacsr
from metacsr_jax.parts import CPU_SAMPLES, mean_over_parts, tasks_at_once

TASKS = 4


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_mean_over_parts_is_the_mean(size):
    rng = np.random.default_rng(0)
    given = {"a": rng.random((TASKS, 3)), "b": rng.random(TASKS)}
    result = mean_over_parts(
        lambda part: (part["a"].mean(axis=0), {"b": part["b"].mean()}), given, size
    )
    np.testing.assert_allclose(result[0], given["a"].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(result[1]["b"], given["b"].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("bound", "samples", "tasks", "expected"),
    [
        (300, 16 * 300, 16, 1),
        (600, 16 * 300, 16, 2),
        (1500, 16 * 300, 16, 4),  # 5 would fit, but does not divide 16
        (10, 16 * 300, 16, 1),  # a task is not cut
        (10**6, 16 * 300, 16, 16),
        (8, 7, 7, 7),
        (6, 7, 7, 1),  # 6 would fit, but 7 is prime
        (0, CPU_SAMPLES * 4, 4, 1),
    ],
)
def test_sizes_by_hand(bound, samples, tasks, expected):
    assert tasks_at_once(MetaConfig(samples_at_once=bound), samples, tasks) == expected


@pytest.mark.parametrize("method", ["maml", "fomaml", "anil", "metasgd", "reptile"])
def test_the_outer_gradient_does_not_depend_on_the_parts(tiny, random_samples, method):
    support = random_samples(1, (TASKS, 5))
    query = random_samples(2, (TASKS, 6))
    results = []
    for at_once in (1, 22, 10**6):
        built = tiny(meta={"method": method, "samples_at_once": at_once})
        config = built.config
        learner = make_meta_learner(built.network, config.loss, config.meta)
        results.append(
            jax.jit(learner.outer_gradient)(
                built.params, built.inputs, support, query, jax.random.key(3)
            )
        )
    for other in results[:-1]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-6), other, results[-1]
        )


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
def test_gathered_and_dense_scores_have_the_same_outer_gradient(
    tiny, random_samples, monkeypatch, loss, kernels
):
    """Value, first and second derivatives of the ways to score candidates: gathered, by a product, by a kernel."""
    support, query = random_samples(1, (TASKS, 5)), random_samples(2, (TASKS, 6))
    results = []
    for dense in (0, 1000):
        monkeypatch.setattr(metacsr, "DENSE_SCORES", dense)
        with_kernel = kernels and not dense
        monkeypatch.setattr(metacsr, "usable", lambda *_, with_kernel=with_kernel: with_kernel)
        built = tiny(loss={"name": loss})
        outer_gradient = jax.jit(built.learner.outer_gradient)
        text = outer_gradient.lower(
            built.params, built.inputs, support, query, jax.random.key(3)
        ).as_text()
        results.append(
            outer_gradient(built.params, built.inputs, support, query, jax.random.key(3))
        )
        results.append(text)
    assert results[1] != results[3], "both runs took the same way"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), results[0], results[2]
    )
