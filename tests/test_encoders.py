"""Every encoder: padding, causality, order, empty histories, dropout, which parameters are the readout's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.runs import Run, Runs

ENCODERS = {
    "element": {},
    "feature": {"attention": "feature", "readout_items": True, "hidden": 24, "compress": 3},
    "gru": {"encoder": "gru"},
    "transformer": {"encoder": "transformer", "layers": 1},
    "mean": {"encoder": "mean"},
}
READOUTS = ("flatten", "last", "mean")
every_encoder = pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
CONTEXT_BL = np.array([[1, 2, 3, 4], [0, 5, 6, 1], [0, 0, 2, 7], [0, 0, 0, 3], [0, 0, 0, 0]])
LENGTH_B = np.array([4, 3, 2, 1, 0])


@pytest.fixture(scope="module")
def encoder(tiny):
    """Gives, once per set of options, a tiny model, its table and a jitted (theta_2, table, context, length) -> s."""
    built = {}

    def build(**options):
        name = tuple(sorted(options.items()))
        if name not in built:
            model = tiny(seed=5, model={"output_relu": False, "distance": "linear", **options})
            table = model.network.represent(model.params["representer"], model.inputs)
            built[name] = model, table, jax.jit(model.network.encode)
        return built[name]

    return build


@every_encoder
@pytest.mark.parametrize("readout", READOUTS)
def test_what_lies_under_the_padding_does_not_matter(encoder, options, readout):
    model, table, encode = encoder(**{**options, "readout": readout})
    theta_2 = model.params["encoder"]
    padding = np.arange(4) < 4 - LENGTH_B[:, None]
    garbage_BL = np.where(padding, np.random.default_rng(0).integers(0, 8, (5, 4)), CONTEXT_BL)
    assert (garbage_BL != CONTEXT_BL).any()
    np.testing.assert_array_equal(
        encode(theta_2, table, garbage_BL, LENGTH_B), encode(theta_2, table, CONTEXT_BL, LENGTH_B)
    )


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("options", [{}, {"readout_items": True, "compress": 3, "hidden": 5}])
def test_runs_of_short_contexts_are_encoded_as_all_are(encoder, options, readout):
    """Value and derivatives, where the longest contexts of a run are known."""
    model, table, encode = encoder(**options, readout=readout)
    short_first = np.argsort(LENGTH_B, kind="stable")
    context_BL, length_B = CONTEXT_BL[short_first], LENGTH_B[short_first]
    runs = Runs((Run(2, 1), Run(2, 3), Run(1, 4)))

    def total(theta_2, vector_ID, runs):
        own = table._replace(vector_ID=vector_ID)
        s_BD = encode(theta_2, own, context_BL, length_B, None, runs)
        return jnp.sum(jnp.tanh(s_BD) ** 2), s_BD

    given = (model.params["encoder"], table.vector_ID)
    results = [jax.value_and_grad(total, (0, 1), has_aux=True)(*given, r) for r in (runs, None)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), results[0], results[1]
    )
    assert np.abs(results[0][0][1]).max() > 0.01
    program = str(jax.make_jaxpr(lambda *g: total(*g, runs))(*given))
    assert f"f32[{runs.tokens},2," in program  # W4 i and W5 i, of no padding that the runs rule out


@every_encoder
def test_vectors_that_only_padding_names_get_no_gradient(encoder, options):
    model, table, encode = encoder(**options)
    context_BL = np.where(
        np.arange(4) < 4 - LENGTH_B[:, None], 6, np.where(CONTEXT_BL == 6, 5, CONTEXT_BL)
    )

    def total(vector_ID):
        s_BD = encode(
            model.params["encoder"], table._replace(vector_ID=vector_ID), context_BL, LENGTH_B
        )
        return jnp.sum(jnp.sin(s_BD))

    gradient_ID = np.asarray(jax.jit(jax.grad(total))(table.vector_ID))
    assert not gradient_ID[6].any()
    assert np.abs(gradient_ID[[1, 2, 3, 4, 5, 7]]).max(axis=1).min() > 0


@every_encoder
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_a_longer_window_changes_nothing(encoder, options, readout):
    """The same history in windows of 4 and of 7, where no parameter depends on the window."""
    short, table, encode = encoder(**{**options, "readout": readout})
    _, _, encode_longer = encoder(**{**options, "readout": readout, "max_length": 7})
    theta_2 = short.params["encoder"]
    longer = dict(theta_2)
    if "positions" in theta_2:  # counted from the latest event
        longer["positions"] = np.concatenate(
            [np.full((3, 4), 9.0, np.float32), theta_2["positions"]]
        )
    np.testing.assert_allclose(
        encode_longer(
            longer, table, np.pad(CONTEXT_BL, ((0, 0), (3, 0)), constant_values=7), LENGTH_B
        ),
        encode(theta_2, table, CONTEXT_BL, LENGTH_B),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("options", "later"),
    [
        ({"encoder": "gru"}, False),
        ({"encoder": "transformer", "layers": 2}, False),
        ({"attention": "element"}, True),
    ],
    ids=["gru", "transformer", "attention_both_ways"],
)
def test_the_state_of_a_position_sees_no_later_event(encoder, options, later):
    """Through a readout that looks at one position alone, only earlier items (and itself) have a gradient."""
    model, table, encode = encoder(**options)
    kernel = np.asarray(model.params["encoder"]["readout"]["W6"]["kernel"])
    width = kernel.shape[0] // 4
    context_BL, length_B = np.array([[1, 2, 3, 4]]), np.array([4])

    def s_of(vector_ID, position):
        window = (jnp.arange(kernel.shape[0]) // width == position)[:, None]
        theta_2 = dict(model.params["encoder"])
        theta_2["readout"] = {"W6": {**theta_2["readout"]["W6"], "kernel": kernel * window}}
        return encode(theta_2, table._replace(vector_ID=vector_ID), context_BL, length_B)[0]

    jacobian = jax.jit(jax.jacobian(s_of))
    for position in range(4):
        reach_I = np.abs(np.asarray(jacobian(table.vector_ID, position))).max(axis=(0, 2))
        assert (reach_I[context_BL[0, :position]] > 1e-6).all()
        assert reach_I[context_BL[0, position + 1 :]].any() == (later and position < 3)
        assert not reach_I[[0, 5, 6, 7]].any()


@every_encoder
def test_order_of_items_matters_to_all_but_the_mean(encoder, options):
    model, table, encode = encoder(**options)
    context_BL = np.array([[1, 2, 3, 4], [3, 1, 2, 4]])
    context_BL = np.concatenate([context_BL, CONTEXT_BL[2:]])
    one, other, *_ = encode(model.params["encoder"], table, context_BL, np.array([4, 4, 2, 1, 0]))
    if options.get("encoder") == "mean":
        np.testing.assert_allclose(one, other, rtol=1e-5)
    else:
        assert np.abs(np.asarray(one - other)).max() > 1e-3


@every_encoder
@pytest.mark.parametrize("readout", READOUTS)
def test_an_empty_history_reads_zeros(encoder, options, readout):
    """s_u is what the readout's biases make of zeros."""
    model, table, encode = encoder(**{**options, "readout": readout})
    weights = model.params["encoder"]["readout"]
    expected = weights["W6"]["bias"]
    if "W7" in weights:
        expected = np.maximum(expected, 0) @ weights["W7"]["kernel"] + weights["W7"]["bias"]
    s_BD = encode(model.params["encoder"], table, CONTEXT_BL, LENGTH_B)
    np.testing.assert_allclose(s_BD[4], expected, rtol=1e-5, atol=1e-6)


@every_encoder
def test_an_empty_history_has_finite_gradients(encoder, options):
    model, table, encode = encoder(**options)

    def total(theta_2, vector_ID):
        s_BD = encode(theta_2, table._replace(vector_ID=vector_ID), CONTEXT_BL, LENGTH_B)
        return jnp.sum(s_BD[4] ** 2)

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))(model.params["encoder"], table.vector_ID)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not np.asarray(gradient[1]).any()


def test_output_relu_is_the_last_thing(encoder):
    plain, table, encode = encoder()
    _, _, encode_relu = encoder(output_relu=True)
    arguments = (plain.params["encoder"], table, CONTEXT_BL, LENGTH_B)
    s_BD = encode(*arguments)
    assert (np.asarray(s_BD) < 0).any()
    np.testing.assert_allclose(encode_relu(*arguments), jnp.maximum(s_BD, 0), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 64, "dropout": 0.5},
        {"input_dropout": 0.5},
        {"encoder": "transformer", "layers": 1, "dropout": 0.5},
    ],
    ids=["hidden", "input", "transformer"],
)
def test_dropout_needs_a_key_and_differs_between_samples(encoder, options):
    model, table, encode = encoder(**options)
    theta_2 = model.params["encoder"]
    context_BL, length_B = np.tile(CONTEXT_BL[:1], (6, 1)), np.full(6, 4)
    still_BD = np.asarray(encode(theta_2, table, context_BL, length_B))
    np.testing.assert_allclose(still_BD, np.tile(still_BD[:1], (6, 1)), rtol=1e-6)
    one, again, other = (
        np.asarray(encode(theta_2, table, context_BL, length_B, jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.unique(one, axis=0).shape[0] == 6 and (one != other).any(axis=1).all()


def test_a_key_without_dropout_changes_nothing(encoder):
    model, table, encode = encoder(hidden=5)
    arguments = (model.params["encoder"], table, CONTEXT_BL, LENGTH_B)
    np.testing.assert_array_equal(encode(*arguments, jax.random.key(0)), encode(*arguments))


def test_input_dropout_keeps_the_mean(encoder):
    """What is kept is scaled up, so that the mean over keys is the value without dropout (the readout is linear)."""
    model, table, encode = encoder(input_dropout=0.3)
    context_BL, length_B = np.tile(CONTEXT_BL[:1], (4000, 1)), np.full(4000, 4)
    s_BD = np.asarray(
        encode(model.params["encoder"], table, context_BL, length_B, jax.random.key(0))
    )
    error_D = s_BD.std(axis=0) / 4000**0.5
    still_D = np.asarray(encode(model.params["encoder"], table, context_BL[:1], length_B[:1]))[0]
    assert (np.abs(s_BD.mean(axis=0) - still_D) < 5 * error_D).all() and (error_D > 1e-4).all()


@pytest.mark.parametrize("name", ["attention", "gru", "transformer", "mean"])
def test_every_encoder_ends_in_a_readout(tiny, name):
    assert "readout" in tiny(model={"encoder": name}).params["encoder"]
