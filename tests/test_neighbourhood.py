"""Drawn neighbours, drawn candidates and lazily updated tables against the whole graph, the whole catalogue and the dense optimizer.

Dimension key: I items, D = dim, C codes, B rows, N candidates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny as tiny_runs
from jax.extend.core import jaxprs_in_params

from metacsr_jax import losses
from metacsr_jax.checks import check
from metacsr_jax.errors import ConfigError
from metacsr_jax.evaluate import evaluate
from metacsr_jax.graph import make_inputs
from metacsr_jax.log import load_log
from metacsr_jax.metacsr import metacsr
from metacsr_jax.neighbourhood import (
    aggregate_drawn,
    distinct,
    draw_candidates,
    draw_places,
    put_rows,
    surround,
    take_rows,
)
from metacsr_jax.problem import make_problem
from metacsr_jax.train import initial_state, prepare_protocol, seed_keys

DRAWN = {
    "model__fan_out": (1000,),
    "loss__candidates": 1000,
    "optimizer__weight_decay": 0.0,
}


def whole(model):
    """The inputs of a tiny model with the arrays that drawing reads."""
    old = model.inputs
    return make_inputs(
        old.graph, model.num_users, model.num_items, old.item_features_IF, old.user_features_RF
    )


@pytest.mark.parametrize("size", [0, 1, 4, 5, 7, 12, 1000])
def test_places_are_distinct_and_all_of_them_where_there_are_few(size):
    count = 5
    keys = jax.random.split(jax.random.key(0), 200)
    place, there = jax.vmap(lambda key: draw_places(key, jnp.full(3, size), count))(keys)
    for row, real in zip(place.reshape(-1, count), there.reshape(-1, count), strict=True):
        drawn = row[real]
        assert len(set(drawn.tolist())) == drawn.size == min(size, count)
        assert ((drawn >= 0) & (drawn < size)).all()


def test_every_place_is_equally_likely():
    keys = jax.random.split(jax.random.key(1), 20_000)
    place, _ = jax.vmap(lambda key: draw_places(key, jnp.full(1, 7), 3))(keys)
    share = np.bincount(np.ravel(place), minlength=7) / place.size
    np.testing.assert_allclose(share, 1 / 7, atol=0.006)


def test_places_near_the_largest_int32():
    size = np.iinfo(np.int32).max
    place, there = draw_places(jax.random.key(0), jnp.full(50, size), 4)
    assert np.all(there) and np.all((place >= 0) & (place < size))
    assert np.all(np.diff(np.sort(place, axis=1), axis=1) > 0)


@pytest.mark.parametrize("codes", [[3, 1, 3], [4, 4, 4, 4], [0, 1, 2, 3, 4, 4]])
def test_distinct_codes_by_hand(codes):
    id_M, place_C = distinct(jnp.array(codes), 5)
    assert np.array_equal(np.asarray(id_M)[place_C], codes)
    real = id_M[id_M < 5]
    assert np.all(np.diff(real) > 0)


@pytest.mark.parametrize("aggregator", ["mean", "max", "sum"])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("features", [False, True])
def test_with_all_neighbours_drawn_it_is_the_whole_graph(tiny, aggregator, hops, features):
    """Vectors, biases and the gradient of theta_1, of some items in any order, with repeats."""
    model = tiny(
        model={
            "aggregator": aggregator,
            "hops": hops,
            "fan_out": (50,) * hops,
            "item_bias": True,
            "node_relu": False,
        },
        features=features,
    )
    inputs, theta_1 = whole(model), model.params["representer"]
    code_C = jnp.array([5, 0, model.num_items - 1, 5, 2])
    near, place_C = surround(
        jax.random.key(0), inputs, model.config.model, model.num_users, model.num_items, code_C
    )

    def value(table, code):
        return jnp.sum(jnp.sin(table.vector_ID[code])) + jnp.sum(jnp.cos(table.bias_I[code]))

    expected, expected_gradient = jax.value_and_grad(
        lambda theta: value(model.network.represent(theta, inputs), code_C)
    )(theta_1)
    result, gradient = jax.value_and_grad(
        lambda theta: value(model.network.represent(theta, near), place_C)
    )(take_rows(theta_1, near.rows))
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    gradient = put_rows(jax.tree.map(jnp.zeros_like, theta_1), gradient, near.rows)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient,
        expected_gradient,
    )


@pytest.mark.parametrize("aggregator", ["mean", "sum"])
def test_drawn_aggregates_are_right_on_average(tiny, aggregator):
    model = tiny(model={"fan_out": (1,), "aggregator": aggregator})
    inputs, items = jax.device_put(whole(model)), model.num_items
    user_RD = np.random.default_rng(0).standard_normal((model.num_users, 3)).astype(np.float32)
    codes = jnp.arange(items)

    def drawn(key):
        near, _ = surround(key, inputs, model.config.model, model.num_users, items, codes)
        rows = jnp.take(user_RD, near.user_S, axis=0, mode="clip")
        return aggregate_drawn(near.hops[0].items, rows, aggregator)

    estimate = jax.vmap(drawn)(jax.random.split(jax.random.key(0), 4000)).mean(axis=0)
    adjacency = np.zeros((items, model.num_users))
    adjacency[model.item_E, model.user_E] = 1
    expected = adjacency @ user_RD
    if aggregator == "mean":
        expected = expected / np.maximum(adjacency.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(estimate, expected, atol=0.15 if aggregator == "sum" else 0.06)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_with_all_candidates_it_is_the_softmax(smoothing):
    logit_BI = jax.random.normal(jax.random.key(0), (6, 11))
    target_B = jnp.array([0, 3, 10, 3, 5, 1])
    candidates = draw_candidates(jax.random.key(1), 11, 50)
    assert sorted(candidates.code_N.tolist()) == list(range(11))
    result = losses.drawn_softmax(
        jnp.take_along_axis(logit_BI, target_B[:, None], 1)[:, 0],
        logit_BI[:, candidates.code_N],
        candidates.code_N[None] == target_B[:, None],
        candidates.items,
        smoothing,
    )
    expected = losses.softmax(logit_BI, target_B, smoothing)
    np.testing.assert_allclose(result.mean_B, expected.mean_B, rtol=1e-5)


def test_the_normaliser_is_right_on_average():
    logit_I = jax.random.normal(jax.random.key(0), (40,))
    target = 7

    def normaliser(key):
        code_N, items = draw_candidates(key, 40, 8)
        loss = losses.drawn_softmax(
            logit_I[None, target], logit_I[code_N][None], (code_N == target)[None], items
        )
        return jnp.exp(loss.mean_B[0] + logit_I[target])

    estimate = jax.vmap(normaliser)(jax.random.split(jax.random.key(1), 20_000)).mean()
    np.testing.assert_allclose(estimate, jnp.exp(logit_I).sum(), rtol=0.02)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    config = tiny_runs.config("tuned")
    return prepare_protocol(load_log(config), config, tmp_path_factory.mktemp("p"), lambda _: None)


def steps(protocol, count, **changes):
    """The state after so many meta-steps, and the model's sizes."""
    config = tiny_runs.config("tuned", train__pretrain_steps=0, **changes)
    check(config)
    model = metacsr(protocol, config)
    init_key, key = seed_keys(config)
    state = model.init(init_key)
    start = jax.tree.map(np.array, state)
    for _ in range(count // config.train.chunk):
        state, reports = model.phases[-1].chunk(state, model.data, key)
    return start, state, reports


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_all_neighbours_and_all_candidates_train_as_the_whole_graph_and_catalogue(protocol):
    plain = steps(protocol, 4, optimizer__weight_decay=0.0)
    drawn = steps(protocol, 4, **DRAWN)
    np.testing.assert_allclose(drawn[2].loss, plain[2].loss, rtol=1e-4)
    close(drawn[1].params, plain[1].params, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_lazy_optimizer_is_the_dense_one_where_all_rows_are_used(protocol, clip):
    dense = steps(protocol, 4, optimizer__clip=clip, **DRAWN)
    lazy = steps(protocol, 4, optimizer__clip=clip, optimizer__lazy=True, **DRAWN)
    close(lazy[1], dense[1], rtol=1e-4, atol=1e-6)


def test_rows_that_are_not_used_keep_their_bits_and_used_ones_move_as_in_the_dense_optimizer(
    protocol,
):
    few = {
        "model__fan_out": (2,),
        "loss__candidates": 2,
        "tasks__tasks": 1,
        "tasks__way": 1,
        "optimizer__weight_decay": 0.01,
        "optimizer__decay": "decoupled",
        "optimizer__schedule": "constant",
        "train__chunk": 1,
        "train__validate_every": 1,
        "train__save_every": 1,
    }
    start, lazy, _ = steps(protocol, 1, optimizer__lazy=True, **few)
    _, dense, _ = steps(protocol, 1, **few)
    for table in ("item_embedding", "user_embedding"):
        before = start.params["representer"][table]
        after, expected = (state.params["representer"][table] for state in (lazy, dense))
        used = np.any(before != np.asarray(after), axis=1)
        assert 0 < used.sum() < used.size
        np.testing.assert_allclose(after[used], expected[used], rtol=1e-5)
        assert np.array_equal(after[~used], before[~used])
    rest = {name: part for name, part in lazy.params["representer"].items() if "emb" not in name}
    close(rest, {name: dense.params["representer"][name] for name in rest}, rtol=1e-5)


def equations(jaxpr):
    """Every equation of a program, those of inner programs too."""
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        if not inner:
            yield equation
        for one in inner:
            yield from equations(one)


@pytest.mark.parametrize("lazy", [True, False])
def test_a_lazy_step_computes_nothing_of_a_tables_size(protocol, lazy):
    config = tiny_runs.config(
        "tuned",
        model__fan_out=(2,),
        loss__candidates=4,
        optimizer__lazy=lazy,
        tasks__tasks=1,
        tasks__way=1,
        tasks__pretrain_batch=1,
    )
    model = metacsr(protocol, config)
    state = jax.eval_shape(model.init, jax.random.key(0))
    shapes = {state.params["representer"][f"{side}_embedding"].shape for side in ("item", "user")}
    for phase in model.phases:
        program = phase.chunk.trace(state, model.data, jax.random.key(0)).jaxpr
        large = {
            equation.primitive.name
            for equation in equations(program)
            if any(getattr(var.aval, "shape", None) in shapes for var in equation.outvars)
        }
        assert (large == {"scatter"}) == lazy, large


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__fan_out": (3,)}, "loss.candidates above 0"),
        ({"model__fan_out": (3, 3), "loss__candidates": 5}, "each of model.hops=1"),
        ({"model__fan_out": (0,), "loss__candidates": 5}, "1 or more"),
        ({"optimizer__lazy": True, "loss__candidates": 5}, "expected model.fan_out"),
        ({"model__fan_out": (3,), "model__diffusion": False}, "no neighbours"),
        ({"loss__name": "bpr", "loss__candidates": 5}, "loss.candidates=5"),
    ],
)
def test_settings_at_odds_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(tiny_runs.config("tuned", **changes))


def test_a_whole_run_with_everything_drawn(tmp_path):
    config = tiny_runs.config(
        "tuned",
        model__hops=2,
        model__fan_out=(3, 2),
        loss__candidates=20,
        optimizer__lazy=True,
    )
    run = tiny_runs.train(tmp_path / "run", config)
    assert run.result.status == "finished"
    rows = evaluate(tmp_path / "run", say=lambda _: None)
    assert rows


def test_initial_state_is_that_of_the_whole_graph(protocol):
    states = [
        initial_state(make_problem(protocol, tiny_runs.config("tuned", **changes)))
        for changes in ({}, DRAWN | {"optimizer__lazy": True})
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
