"""W6's change kept as factors is the change itself: adapted models, outer gradients, shifts, and when it is used.

Dimension key: T tasks, K support samples, F rows and O columns of W6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax import adaptation
from metacsr_jax.adaptation import W6, low_rank_pays, relative_shift

MODELS = {
    "paper": {},
    "hidden": {"hidden": 6, "output_relu": False, "compress": 3, "readout_items": True},
    "gru": {"encoder": "gru", "output_relu": False},
}


@pytest.fixture
def share(monkeypatch):
    """Sets how large the factors may be: never used at 0, always at a million."""
    return lambda value: monkeypatch.setattr(adaptation, "LOW_RANK_SHARE", value)


def scores(built, support, query, steps):
    table = built.network.represent(built.params["representer"], built.inputs)
    theta_2 = built.learner.personalise(built.params, table, support, steps)
    s_KD = built.network.encode(theta_2, table, query.context_KL, query.length_K)
    return built.network.score_catalogue(theta_2, table, s_KD), theta_2


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["maml", "anil"])
def test_factors_adapt_as_the_matrix_does(tiny, random_samples, share, model, method, steps):
    built = tiny(seed=2, model=MODELS[model], meta={"method": method, "inner_rate": 0.3})
    support, query = random_samples(4, (5,)), random_samples(5, (6,))
    share(0.0)
    plain, whole = scores(built, support, query, steps)
    share(1e6)
    fast, factors = scores(built, support, query, steps)
    assert "left" in factors["readout"]["W6"] and "left" not in whole["readout"]["W6"]
    assert np.abs(plain - scores(built, support, query, 0)[0]).max() > 1e-3
    np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)
    left, right = (factors["readout"]["W6"][side] for side in ("left", "right"))
    changed = factors["readout"]["W6"]["kernel"] + left.T @ right
    np.testing.assert_allclose(changed, whole["readout"]["W6"]["kernel"], rtol=1e-5, atol=1e-6)
    before = built.params["encoder"]
    np.testing.assert_allclose(
        relative_shift(before, factors), relative_shift(before, whole), rtol=1e-4
    )


@pytest.mark.parametrize("method", ["maml", "fomaml", "anil"])
def test_outer_gradients_through_factors_are_those_through_the_matrix(
    tiny, random_samples, share, method
):
    built = tiny(meta={"method": method, "inner_steps": 2, "inner_rate": 0.2})
    support, query = random_samples(1, (3, 5)), random_samples(2, (3, 6))
    results = []
    for value in (0.0, 1e6):
        share(value)
        gradient = jax.jit(
            lambda *given: built.learner.outer_gradient(*given)
        )  # a new function, or jit would not trace again
        results.append(gradient(built.params, built.inputs, support, query, jax.random.key(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_who_shares_a_matrix_still_adapts_alone(tiny, random_samples, share):
    built, support = tiny(seed=2, meta={"inner_rate": 0.3}), random_samples(4, (3, 5))
    query = random_samples(5, (6,))
    share(1e6)
    each = [
        scores(built, jax.tree.map(lambda a, t=t: a[t], support), query, 2)[0] for t in range(3)
    ]
    together = jax.vmap(lambda s: scores(built, s, query, 2)[0])(support)
    np.testing.assert_allclose(together, np.stack(each), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "steps", "pays"),
    [(8, 5, True), (8, 0, False), (75, 1, False), (60, 1, True), (8, 8, False)],
)
def test_when_factors_pay_by_hand(samples, steps, pays):
    """The paper's W6 has 2,560 x 128 = 327,680 entries, a sample's factors 2,688: 60 of them are under half."""
    assert low_rank_pays({W6: jnp.zeros((2560, 128))}, samples, steps) == pays


@pytest.mark.parametrize("method", ["reptile", "metasgd"])
def test_methods_that_need_the_matrix_keep_it(tiny, random_samples, share, method):
    share(1e6)
    built = tiny(meta={"method": method})
    theta_2 = scores(built, random_samples(4, (5,)), random_samples(5, (6,)), 1)[1]
    assert "left" not in theta_2["readout"]["W6"]
