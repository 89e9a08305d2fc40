"""The Meta Learner: `adapt`, what each variant adapts, and outer gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.adaptation import adapt, relative_shift, split_adapted
from metacsr_jax.meta import plain_gradient, sample_loss

# Without the ReLUs that leave so small a model nothing to learn from.
SMALL = {
    "dim": 3,
    "max_length": 3,
    "output_relu": False,
    "node_relu": False,
    "distance": "linear",
}


def jitted_outer(model):
    """(params, support, query) -> OuterResult; these models have no dropout, so the key decides nothing."""
    return jax.jit(
        lambda params, support, query: model.learner.outer_gradient(
            params, model.inputs, support, query, jax.random.key(0)
        )
    )


def outer(model, support, query):
    return jitted_outer(model)(model.params, support, query)


def personalise(model, support, steps):
    return jax.jit(model.learner.personalise, static_argnums=3)(
        model.params, table_of(model), support, steps
    )


def query_loss(model, samples, theta_2=None):
    return sample_loss(
        model.network,
        model.config.loss,
        model.params["encoder"] if theta_2 is None else theta_2,
        table_of(model),
        samples,
        "mean",
    )


def batch(random_samples, tasks=2):
    return random_samples(1, (tasks, 4), length=3), random_samples(2, (tasks, 3), length=3)


def task(samples, t):
    return jax.tree.map(lambda array: array[t], samples)


def table_of(model):
    return jax.jit(model.network.represent)(model.params["representer"], model.inputs)


def difference(after, before):
    """Largest change of every leaf, by path."""
    fast, _ = split_adapted(jax.tree.map(lambda a, b: np.abs(a - b).max(), after, before), "all")
    return {"/".join(path): float(leaf) for path, leaf in fast.items()}


def assert_trees_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


# --- adapt on a parabola: L(x) = c x^2 / 2, so that a step multiplies x by (1 - r c) ---


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_adapt_is_gradient_descent(steps):
    fast = {"x": jnp.array([2.0, -1.0]), "y": jnp.array(3.0)}

    def loss(fast):
        return 0.5 * (jnp.sum(fast["x"] ** 2) + 4 * fast["y"] ** 2)

    after = adapt(loss, fast, 0.1, steps)
    np.testing.assert_allclose(after["x"], 0.9**steps * fast["x"], rtol=1e-6)
    np.testing.assert_allclose(after["y"], 0.6**steps * 3.0, rtol=1e-6)
    rates = {"x": jnp.array([0.5, 0.0]), "y": jnp.array(0.25)}
    after = adapt(loss, fast, rates, steps)
    np.testing.assert_allclose(after["x"], np.array([0.5, 1.0]) ** steps * fast["x"], rtol=1e-6)
    assert after["y"] == (0.0 if steps else 3.0)


@pytest.mark.parametrize(("first_order", "slope"), [(False, 0.6**3), (True, 1.0)])
def test_first_order_takes_the_inner_gradient_for_a_constant(first_order, slope):
    def after(y):
        return adapt(lambda y: 2 * y**2, y, 0.1, 3, first_order=first_order)

    value, gradient = jax.value_and_grad(after)(3.0)
    assert value == pytest.approx(0.6**3 * 3.0) and gradient == pytest.approx(slope)


def test_adapt_without_steps_returns_the_start(tiny, random_samples):
    model = tiny(model=SMALL)
    support, _ = batch(random_samples)
    after = personalise(model, task(support, 0), 0)
    jax.tree.map(np.testing.assert_array_equal, after, model.params["encoder"])


# --- second-order outer gradients against central differences in float64 ---


@pytest.mark.parametrize(
    ("meta", "options"),
    [
        ({"inner_steps": 1}, {"loss": {"name": "bpr"}}),
        ({"inner_steps": 3}, {"model": {**SMALL, "attention": "feature", "distance": "learned"}}),
        ({"inner_steps": 2}, {"loss": {"name": "softmax", "label_smoothing": 0.1}, "dense": True}),
        ({"inner_steps": 2, "method": "metasgd"}, {"loss": {"name": "sampled_softmax"}}),
        (
            {"inner_steps": 1, "method": "anil", "inner_reduction": "mean"},
            {"loss": {"name": "bce"}},
        ),
    ],
    ids=["maml_1", "maml_3", "maml_softmax", "metasgd", "anil"],
)
def test_outer_gradient_agrees_with_finite_differences(tiny, random_samples, meta, options):
    support, query = batch(random_samples)
    with jax.enable_x64(True):
        model = tiny(seed=1, meta=meta, **{"model": SMALL, **options})
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
        if "rates" in params:  # not all alike
            generator = np.random.default_rng(0)
            params["rates"] = jax.tree.map(
                lambda leaf: leaf + 0.3 * generator.standard_normal(leaf.shape), params["rates"]
            )
        function = jitted_outer(model)
        gradient = function(params, support, query).gradient
        assert jax.tree.structure(gradient) == jax.tree.structure(params)
        generator = np.random.default_rng(1)
        for part in params:  # theta_1, theta_2 and the rates apart: none hides behind another
            direction = jax.tree.map(
                lambda leaf: generator.standard_normal(leaf.shape), params[part]
            )

            def loss(step, part=part, direction=direction):
                moved = jax.tree.map(lambda p, d: p + step * d, params[part], direction)
                return function({**params, part: moved}, support, query).loss

            slope = sum(
                jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient[part], direction))
            )
            expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
            assert slope == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
            assert abs(slope) > 1e-3
    # The test can tell the orders apart: adaptation moves the parameters far enough.
    assert function(params, support, query).shift > 1e-3


def test_first_order_maml_is_the_query_gradient_at_the_adapted_parameters(tiny, random_samples):
    support, query = batch(random_samples)
    meta = {"inner_steps": 2}
    exact = tiny(seed=1, model=SMALL, meta=meta)
    first = tiny(seed=1, model=SMALL, meta={**meta, "method": "fomaml"})
    whole, result = (outer(model, support, query) for model in (exact, first))
    assert result.loss == pytest.approx(float(whole.loss), rel=1e-6)

    def by_hand(params):
        def loss(theta_1, theta_2, t):
            table = exact.network.represent(theta_1, exact.inputs)
            return sample_loss(
                exact.network, exact.config.loss, theta_2, table, task(query, t), "mean"
            )

        total = jax.tree.map(jnp.zeros_like, params)
        table = exact.network.represent(params["representer"], exact.inputs)
        for t in range(2):
            adapted = exact.learner.personalise(params, table, task(support, t), 2)
            of_1, of_2 = jax.grad(loss, argnums=(0, 1))(params["representer"], adapted, t)
            total = jax.tree.map(
                lambda a, b: a + b / 2, total, {"representer": of_1, "encoder": of_2}
            )
        return total

    assert_trees_close(result.gradient, jax.jit(by_hand)(exact.params), rtol=1e-4, atol=1e-6)
    apart = difference(result.gradient["encoder"], whole.gradient["encoder"])
    assert max(apart.values()) > 1e-2


# --- what adapts ---


@pytest.mark.parametrize(
    ("meta", "still"),
    [
        ({"method": "maml"}, ()),
        ({"method": "anil"}, ("attention",)),
        ({"adapted": "readout"}, ("attention",)),
        ({"adapted": "head"}, ("attention", "readout/W6/kernel")),
    ],
    ids=["all", "anil", "readout", "head"],
)
def test_only_the_chosen_part_adapts(tiny, random_samples, meta, still):
    model = tiny(model={**SMALL, "hidden": 8, "predictor": "mlp"}, meta=meta)
    support, _ = batch(random_samples)
    after = personalise(model, task(support, 0), 1)
    moved = difference(after, model.params["encoder"])
    assert {"readout/W6/bias", "readout/W7/kernel", "predictor/W8/kernel", "attention/W3"} <= set(
        moved
    )
    for path, change in moved.items():
        if path.startswith("predictor/") and path.endswith("/bias"):
            # Adds the same to all scores, W8's where the same hidden units are on for all: a ranking loss does not see it.
            continue
        assert (change == 0) == path.startswith(still), path


def test_every_task_adapts_to_its_own_support(tiny, random_samples):
    """The outer loss is the mean over tasks of each one's query loss under its own adapted parameters."""
    model = tiny(model=SMALL, meta={"inner_steps": 2})
    support, query = batch(random_samples, tasks=3)
    loss, shift = [], []
    for t in range(3):
        theta_2 = personalise(model, task(support, t), 2)
        loss.append(query_loss(model, task(query, t), theta_2))
        shift.append(relative_shift(model.params["encoder"], theta_2))
    result = outer(model, support, query)
    np.testing.assert_allclose(result.loss, np.mean(loss), rtol=1e-5)
    np.testing.assert_allclose(result.shift, np.mean(shift), rtol=1e-4)
    assert np.ptp(loss) > 1e-3


@pytest.mark.parametrize("method", ["maml", "fomaml", "anil", "metasgd"])
def test_no_inner_steps_is_the_plain_model(tiny, random_samples, method):
    """Loss and gradient of the query, averaged over tasks, as if there were no support."""
    model = tiny(model=SMALL, meta={"method": method, "inner_steps": 0})
    support, query = batch(random_samples)
    query = query._replace(mask_K=np.ones((2, 3), bool))  # so that tasks weigh alike when merged
    result = outer(model, support, query)
    merged = jax.tree.map(lambda a: a.reshape(6, *a.shape[2:]), query)
    base = {name: model.params[name] for name in ("representer", "encoder")}
    plain = jax.jit(plain_gradient, static_argnums=(0, 1))(
        model.network, model.config.loss, base, model.inputs, merged, jax.random.key(0)
    )
    np.testing.assert_allclose(result.loss, plain.loss, rtol=1e-5)
    gradient = dict(result.gradient)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient.pop("rates", {})))
    assert_trees_close(gradient, plain.gradient, rtol=1e-4, atol=1e-6)
    assert result.shift == 0


def test_without_meta_learner_support_and_query_are_samples_alike(tiny, random_samples):
    model = tiny(model=SMALL, meta={"method": "none"})
    support, query = batch(random_samples)
    result = outer(model, support, query)
    total, count = 0.0, 0
    for part in (support, query):
        for t in range(2):
            real = part.mask_K[t].sum()
            total, count = total + real * query_loss(model, task(part, t)), count + real
    assert result.loss == pytest.approx(float(total / count), rel=1e-5)
    assert result.shift == 0


def test_reptile_pulls_toward_the_adapted_parameters(tiny, random_samples):
    """A step of inner_rate * inner_steps along minus the gradient lands on the mean of the adapted copies."""
    meta = {"method": "reptile", "inner_steps": 3, "inner_rate": 0.05}
    model = tiny(model=SMALL, meta=meta)
    first = tiny(model=SMALL, meta={**meta, "method": "fomaml"})
    support, query = batch(random_samples)
    result, reference = (outer(m, support, query) for m in (model, first))
    adapted = [personalise(model, task(support, t), 3) for t in range(2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *adapted)
    landed = jax.tree.map(
        lambda p, g: p - 0.15 * g, model.params["encoder"], result.gradient["encoder"]
    )
    assert_trees_close(landed, mean, rtol=1e-4, atol=1e-6)
    assert_trees_close(
        result.gradient["representer"], reference.gradient["representer"], rtol=1e-4, atol=1e-6
    )
    assert max(difference(mean, model.params["encoder"]).values()) > 1e-3


# --- support: masks, reductions, rates ---


def test_an_empty_support_leaves_the_model_unadapted(tiny, random_samples):
    model = tiny(model=SMALL)
    support, query = batch(random_samples)
    support = support._replace(mask_K=np.zeros((2, 4), bool))
    result = outer(model, support, query)
    after = personalise(model, task(support, 0), 3)
    jax.tree.map(np.testing.assert_array_equal, after, model.params["encoder"])
    assert result.shift == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.gradient))


def test_masked_samples_do_not_adapt(tiny, random_samples):
    model = tiny(model=SMALL)
    support = task(batch(random_samples)[0], 0)._replace(
        mask_K=np.array([True, False, True, False])
    )
    garbage = random_samples(9, (4,), length=3)
    changed = jax.tree.map(
        lambda a, b: np.where(support.mask_K.reshape(-1, *[1] * (a.ndim - 1)), a, b),
        support,
        garbage,
    )._replace(mask_K=support.mask_K)
    assert any((a != b).any() for a, b in zip(support, changed, strict=True))
    jax.tree.map(
        np.testing.assert_array_equal,
        personalise(model, support, 1),
        personalise(model, changed, 1),
    )


def test_the_sum_over_the_support_is_its_mean_times_samples_and_terms(tiny, random_samples):
    """Three samples of five negatives each: a step of the sum is fifteen steps' worth of the mean."""
    support = random_samples(3, (4,), length=3, negatives=5)._replace(
        mask_K=np.array([True, True, False, True])
    )
    moved = {}
    for reduction in ("sum", "mean"):
        model = tiny(
            model=SMALL,
            loss={"negatives": 5},
            meta={"inner_reduction": reduction, "inner_rate": 0.01},
        )
        after = personalise(model, support, 1)
        moved[reduction] = jax.tree.map(lambda a, b: a - b, after, model.params["encoder"])
    expected = jax.tree.map(lambda leaf: 15 * leaf, moved["mean"])
    assert_trees_close(moved["sum"], expected, rtol=1e-3, atol=1e-5)


def test_learned_rates_start_at_the_inner_rate_and_stay_positive(tiny, random_samples):
    maml, metasgd = tiny(model=SMALL), tiny(model=SMALL, meta={"method": "metasgd"})
    assert jax.tree.structure(metasgd.params["rates"]) == jax.tree.structure(maml.params["encoder"])
    support = task(batch(random_samples)[0], 0)
    one, other = (personalise(m, support, 1) for m in (maml, metasgd))
    assert_trees_close(one, other, rtol=1e-5, atol=1e-6)
    only_head = tiny(model=SMALL, meta={"method": "metasgd", "adapted": "head"})
    assert difference(only_head.params["rates"], only_head.params["rates"]).keys() == {
        "readout/W6/bias"
    }
