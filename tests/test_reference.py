"""The network against a float64 re-computation with loops."""

import jax
import numpy as np
import pytest
import reference

HISTORIES = [[], [3], [2, 5], [1, 7, 1], [0, 4, 6, 2]]

ENCODERS = {
    "paper": {},
    "feature": {"attention": "feature"},
    "feature_over_n": {"attention": "feature", "normalise_over": "n", "distance": "linear"},
    "element_over_n": {"normalise_over": "n", "distance": "learned"},
    "learned_distance": {"distance": "learned", "attention_dim": 3, "readout": "mean"},
    "linear_distance": {"distance": "linear", "readout": "last", "output_relu": False},
    "loosened": {
        "distance": "learned",
        "attention": "feature",
        "readout_items": True,
        "compress": 3,
        "hidden": 5,
        "output_relu": False,
        "item_bias": True,
        "node_residual": True,
        "node_relu": False,
        "node_norm": False,
    },
    "hidden_mlp": {"hidden": 3, "predictor": "mlp", "item_bias": True, "readout_items": True},
    "compress_mean": {"compress": 2, "readout": "mean", "readout_items": True},
    "mean_encoder": {"encoder": "mean", "predictor": "mlp"},
    "mean_compress_last": {"encoder": "mean", "compress": 3, "readout": "last"},
    "gru": {"encoder": "gru", "output_relu": False},
    "gru_last": {"encoder": "gru", "readout": "last", "hidden": 6, "output_relu": False},
    "transformer": {"encoder": "transformer", "output_relu": False},
    "transformer_one_layer": {
        "encoder": "transformer",
        "layers": 1,
        "heads": 4,
        "readout": "mean",
        "output_relu": False,
    },
}

DIFFUSIONS = {
    "off": {"diffusion": False},
    "mean": {},
    "max": {"aggregator": "max", "hops": 1},
    "sum": {"aggregator": "sum", "node_norm": False, "node_residual": True},
    "two_hops_mean": {"hops": 2, "node_relu": False},
    "two_hops_max": {"hops": 2, "aggregator": "max"},
    "three_hops_sum": {"hops": 3, "aggregator": "sum", "node_residual": True},
    "three_hops_plain": {"hops": 3, "node_relu": False, "node_norm": False, "item_bias": True},
}


def table_of(model):
    """The reference's table for a `Tiny`."""
    return reference.item_table(
        reference.as_float64(model.params["representer"]),
        model.config.model,
        list(zip(model.user_E.tolist(), model.item_E.tolist(), strict=True)),
        model.num_users,
        model.num_items,
        model.inputs.item_features_IF,
        model.inputs.user_features_RF,
    )


def left_padded(histories, length, padding=0):
    """Contexts [B, L] and lengths [B]; what is under the padding is given, since it must not matter."""
    context = np.full((len(histories), length), padding, np.int32)
    for row, history in enumerate(histories):
        context[row, length - len(history) :] = history
    return context, np.array([len(history) for history in histories], np.int32)


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [False, True], ids=["edges_ids", "dense_features"])
@pytest.mark.parametrize("options", DIFFUSIONS.values(), ids=DIFFUSIONS)
def test_item_table(tiny, options, extra):
    model = tiny(seed=1, model=options, features=extra, dense=extra)
    vector_ID, bias_I = table_of(model)
    table = model.network.represent(model.params["representer"], model.inputs)
    close(table.vector_ID, vector_ID)
    close(table.bias_I, bias_I)
    assert np.abs(vector_ID).max() > 0.1


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_scores_of_every_encoder(tiny, options):
    model = tiny(seed=2, model=options)
    config, theta_2 = model.config.model, reference.as_float64(model.params["encoder"])
    vector_ID, bias_I = table_of(model)
    expected_s = [reference.encode(theta_2, config, vector_ID, history) for history in HISTORIES]
    expected = [reference.scores(theta_2, config, vector_ID, bias_I, s_D) for s_D in expected_s]

    network = model.network
    table = network.represent(model.params["representer"], model.inputs)
    context_BL, length_B = left_padded(HISTORIES, config.max_length, padding=6)
    s_BD = network.encode(model.params["encoder"], table, context_BL, length_B)
    close(s_BD, expected_s)
    close(network.score_catalogue(model.params["encoder"], table, s_BD), expected)
    item_BN = np.array([[1, 7, 1], [0, 0, 5], [2, 3, 4], [7, 6, 5], [3, 1, 0]])
    candidates_BN = network.score_candidates(model.params["encoder"], table, s_BD, item_BN)
    close(candidates_BN, np.take_along_axis(np.array(expected), item_BN, axis=1))
    assert np.ptp(expected) > 0.1  # agreement on zeros would show nothing


def test_adapted_parameters(tiny, random_samples):
    """theta_2' after one inner step (eqs. 10 to 12), the gradient by central differences of the reference."""
    options = {"distance": "linear", "output_relu": False, "node_relu": False, "node_norm": False}
    model = tiny(seed=3, model={**options, "dim": 2, "max_length": 3}, meta={"inner_rate": 0.5})
    config = model.config.model
    # Only with three events is there a choice between partners, and so a gradient of the attention.
    support = random_samples(4, (5,), length=3)._replace(
        length_K=np.array([3, 0, 3, 2, 3], np.int32)
    )
    assert support.mask_K.any() and not support.mask_K.all()
    vector_ID, bias_I = table_of(model)
    theta_2 = reference.as_float64(model.params["encoder"])

    def loss():
        total = 0.0
        for k in np.flatnonzero(support.mask_K):
            history = support.context_KL[k, config.max_length - support.length_K[k] :]
            s_D = reference.encode(theta_2, config, vector_ID, list(history))
            score_I = reference.scores(theta_2, config, vector_ID, bias_I, s_D)
            total += reference.bpr_sum(score_I, support.target_K[k], support.negative_KN[k])
        return total

    def gradient(leaf):
        out = np.zeros_like(leaf)
        for place in np.ndindex(leaf.shape):
            kept, side = leaf[place], {}
            for sign in (1, -1):
                leaf[place] = kept + sign * 1e-5  # in place: the loss reads the same tree
                side[sign] = loss()
            leaf[place] = kept
            out[place] = (side[1] - side[-1]) / 2e-5
        return out

    expected = jax.tree.map(lambda leaf: -0.5 * gradient(leaf), theta_2)
    with jax.enable_x64(True):
        params = reference.as_float64(model.params)
        table = model.network.represent(params["representer"], model.inputs)
        adapt = jax.jit(model.learner.personalise, static_argnums=3)
        adapted = adapt(params, table, support, 1)
        moved = jax.tree.map(lambda after, before: np.asarray(after) - before, adapted, theta_2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), moved, expected
    )
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-5
