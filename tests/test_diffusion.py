"""The Diffusion Representer: what reaches what, and what it does not touch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.graph import DiffusionInputs, interaction_graph
from metacsr_jax.models.diffusion import draw_by_blocks

ISOLATED = -1  # the last item of the tiny graph has no user


def represent(model, theta_1=None, inputs=None):
    theta_1 = model.params["representer"] if theta_1 is None else theta_1
    return model.network.represent(theta_1, model.inputs if inputs is None else inputs)


def sensitivity(model, name):
    """[I, senders]: whether an item's vector depends on each row of an embedding."""

    def vectors(embedding):
        return represent(model, {**model.params["representer"], name: embedding}).vector_ID

    jacobian = jax.jacobian(vectors)(model.params["representer"][name])
    return np.abs(np.asarray(jacobian)).max(axis=(1, 3)) > 0


def adjacency(model):
    matrix_RI = np.zeros((model.num_users, model.num_items), bool)
    matrix_RI[model.user_E, model.item_E] = True
    return matrix_RI


def test_without_diffusion_the_table_is_the_embedding(tiny):
    model = tiny(model={"diffusion": False})
    np.testing.assert_array_equal(
        represent(model).vector_ID, model.params["representer"]["item_embedding"]
    )
    assert set(model.params["representer"]) == {"item_embedding"}


def test_one_hop_reaches_the_users_of_an_item_and_no_other_item(tiny):
    model = tiny(model={"node_relu": False})
    np.testing.assert_array_equal(
        sensitivity(model, "item_embedding"), np.eye(model.num_items, dtype=bool)
    )
    np.testing.assert_array_equal(sensitivity(model, "user_embedding"), adjacency(model).T)


def test_two_hops_reach_the_other_items_of_the_users_of_an_item(tiny):
    model = tiny(model={"node_relu": False, "hops": 2})
    matrix_RI = adjacency(model)
    shared_II = (matrix_RI.T.astype(int) @ matrix_RI) > 0
    shared_II |= np.eye(model.num_items, dtype=bool)
    np.testing.assert_array_equal(sensitivity(model, "item_embedding"), shared_II)
    assert not shared_II.all()


@pytest.mark.parametrize("aggregator", ["mean", "max", "sum"])
def test_an_isolated_item_keeps_to_itself(tiny, aggregator):
    model = tiny(model={"node_relu": False, "hops": 3, "aggregator": aggregator})
    own = np.zeros(model.num_items, bool)
    own[ISOLATED] = True
    np.testing.assert_array_equal(sensitivity(model, "item_embedding")[ISOLATED], own)
    assert not sensitivity(model, "user_embedding")[ISOLATED].any()


@pytest.mark.parametrize("aggregator", ["mean", "max", "sum"])
def test_order_of_users_and_of_items_does_not_matter(tiny, aggregator):
    model = tiny(model={"hops": 2, "aggregator": aggregator})
    generator = np.random.default_rng(0)
    user_place, item_place = (
        generator.permutation(model.num_users),
        generator.permutation(model.num_items),
    )
    graph = interaction_graph(
        user_place[model.user_E], item_place[model.item_E], model.num_users, model.num_items
    )
    theta_1 = dict(model.params["representer"])
    theta_1["user_embedding"] = theta_1["user_embedding"][np.argsort(user_place)]
    theta_1["item_embedding"] = theta_1["item_embedding"][np.argsort(item_place)]
    moved = represent(model, theta_1, DiffusionInputs(graph, None))
    np.testing.assert_allclose(
        moved.vector_ID[item_place], represent(model).vector_ID, rtol=1e-5, atol=1e-6
    )


def test_norm_gives_unit_rows(tiny):
    vector_ID = represent(tiny(model={"node_relu": False})).vector_ID
    np.testing.assert_allclose(np.linalg.norm(vector_ID, axis=1), 1.0, rtol=1e-5)


def test_rows_that_relu_kills_stay_finite(tiny):
    model = tiny()
    theta_1 = jax.tree.map(jnp.asarray, model.params["representer"])
    theta_1["hop1"]["W2"]["bias"] = jnp.full(4, -100.0)

    def total(theta_1):
        return jnp.sum(represent(model, theta_1).vector_ID ** 2)

    value, gradient = jax.value_and_grad(total)(theta_1)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_item_bias_starts_at_centred_log_popularity(tiny):
    model = tiny(model={"item_bias": True})
    theta_1 = model.network.init(jax.random.key(0), model.inputs)["representer"]
    log_I = np.log1p(adjacency(model).sum(axis=0))
    np.testing.assert_allclose(theta_1["item_bias"], log_I - log_I.mean(), rtol=1e-5, atol=1e-6)
    assert not np.asarray(represent(tiny()).bias_I).any()


def test_embeddings_start_with_the_stated_deviation(tiny):
    model = tiny(model={"dim": 256, "init_scale": 3.0})
    embedding = model.network.init(jax.random.key(0), model.inputs)["representer"]["item_embedding"]
    assert np.std(embedding) == pytest.approx(3.0 / 256**0.5, rel=0.1)


def test_features_tell_unseen_items_apart(tiny):
    """Two items without users and with one embedding differ by their features alone."""
    model = tiny(features=True, model={"diffusion": False})
    theta_1 = dict(model.params["representer"])
    theta_1["item_embedding"] = np.zeros_like(theta_1["item_embedding"])
    expected = model.inputs.item_features_IF @ theta_1["item_features"]["kernel"]
    np.testing.assert_allclose(represent(model, theta_1).vector_ID, expected, rtol=1e-5, atol=1e-6)


def test_a_table_drawn_by_blocks_has_independent_rows_of_one_deviation():
    deviation, block = 0.5, 300
    draw = nn.initializers.normal(deviation)
    table_ND = np.asarray(draw_by_blocks(draw, jax.random.key(0), (1000, 64), block))
    assert table_ND.std() == pytest.approx(deviation, rel=0.02)  # 64,000 draws: .3 % to be expected
    correlation_NN = np.corrcoef(table_ND) - np.eye(1000)
    assert np.abs(correlation_NN).max() < 6 / 64**0.5  # rows drawn twice would have 1
    assert np.all(np.abs(table_ND).sum(axis=1) > 0)  # nor is any left out
