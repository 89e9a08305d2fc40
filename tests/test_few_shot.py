"""MeLU and MetaCS against float64 re-computations with loops and gradients by hand; the tasks they are drawn from.

Dimension key: U tasks, R users, K positives, N negatives each, D = dim, I items, B served users, L context, X and Y any axes.
"""

import copy
import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import tiny  # noqa: F401 (its settings of the compiler)
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.baselines import melu, metacs
from metacsr_jax.baselines.few_shot import Predictor, personalise, set_loss, task_loss
from metacsr_jax.baselines.training import draw_sets, served_negatives, start_state
from metacsr_jax.cases import case_batch
from metacsr_jax.config import Config, FewShotConfig, MeLUConfig, MetaCSConfig, ProtocolConfig
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import NEW, REGULAR, Protocol
from metacsr_jax.tasks import make_histories

DIM, USERS, ITEMS, NEGATIVES, SUPPORT, QUERY = 3, 4, 9, 2, 3, 4
OWN = FewShotConfig(inner_rate=0.3, support=SUPPORT, query=QUERY, negatives=NEGATIVES)
ROW, NEWCOMER = 2, -1


class Kind(NamedTuple):
    """A predictor, and what the reference needs to know of it."""

    predictor: Predictor
    layers: tuple[str, ...]
    user_vector: str | None = None  # None: no user enters


def melu_of(user_vector: str, dim: int = DIM, hidden: int = 5) -> Kind:
    predictor = melu.make_predictor(dim, hidden, user_vector)
    return Kind(predictor, ("first", "second", "last"), user_vector)


def metacs_of(*widths: int, adapt_embeddings: bool = False) -> Kind:
    layers = tuple(f"layer_{n}" for n in range(len(widths) + 1))
    return Kind(metacs.make_predictor(DIM, widths, adapt_embeddings), layers)


KINDS = {
    "metacs-l": metacs_of(),
    "metacs-dnn": metacs_of(5, 4),
    "metacs-embeddings": metacs_of(5, adapt_embeddings=True),
    "melu": melu_of("shared"),
    "melu-zero": melu_of("zero"),
    "melu-support": melu_of("support"),
}


# --- the reference: nested dicts of float64, sets as lists of (item, its negatives) ---


def table_of(params):
    """Item embeddings, wherever they are."""
    return params["fast"].get("item", params["shared"].get("item"))


def input_of(kind, params, row, support, item):
    """What the first layer sees of an item: e_i, or [e_u, e_i]."""
    table_ID = table_of(params)
    if kind.user_vector is None:
        return table_ID[item]
    if row >= 0:
        user_D = params["shared"]["user"][row]
    elif kind.user_vector == "shared":
        user_D = params["shared"]["user"][len(params["shared"]["user"]) - 1]
    else:
        user_D = np.zeros(table_ID.shape[1])
        if kind.user_vector == "support":
            for known, _ in support:
                user_D = user_D + table_ID[known] / len(support)
    return np.concatenate([user_D, table_ID[item]])


def activations(kind, fast, x):
    """The input of every layer, and the logit."""
    passed = [x]
    for name in kind.layers:
        kernel, bias = fast[name]["kernel"], fast[name]["bias"]
        y = np.array([x @ kernel[:, j] + bias[j] for j in range(len(bias))])
        x = y if name == kind.layers[-1] else reference.relu(y)
        passed.append(x)
    return passed


def score_of(kind, params, row, support, item):
    """The logit of one item."""
    return activations(kind, params["fast"], input_of(kind, params, row, support, item))[-1][0]


def terms_of(loss, samples, score):
    """(loss, its derivatives by the scores of items) of each term; the loss of a set is the mean of its terms."""
    for item, negatives in samples:
        if loss == "bpr":
            for negative in negatives:
                gap = score(negative) - score(item)
                slope = reference.sigmoid(gap)
                yield np.logaddexp(0.0, gap), [(negative, slope), (item, -slope)]
            continue
        for label, code in [(1.0, item), *((0.0, negative) for negative in negatives)]:
            s = score(code)
            if loss == "mse":
                yield (s - label) ** 2, [(code, 2 * (s - label))]
            else:
                yield np.logaddexp(0.0, -s if label else s), [(code, reference.sigmoid(s) - label)]


def loss_of(loss, samples, score):
    terms = [value for value, _ in terms_of(loss, samples, score)]
    return sum(terms) / len(terms) if terms else 0.0


def adapted(kind, own, params, row, support, steps):
    """The parameters after gradient descent of the layers on the support, by back-propagation."""
    params = copy.deepcopy(params)
    for _ in range(steps):
        gradient = jax.tree.map(np.zeros_like, params["fast"])
        terms = list(
            terms_of(own.loss, support, lambda item: score_of(kind, params, row, support, item))
        )
        for _, slopes in terms:
            for item, slope in slopes:
                passed = activations(
                    kind, params["fast"], input_of(kind, params, row, support, item)
                )
                delta = np.array([slope / len(terms)])
                for n in reversed(range(len(kind.layers))):
                    name = kind.layers[n]
                    gradient[name]["kernel"] += np.outer(passed[n], delta)
                    gradient[name]["bias"] += delta
                    delta = params["fast"][name]["kernel"] @ delta
                    if n:
                        delta = delta * (passed[n] > 0)
                if "item" in params["fast"]:
                    gradient["item"][item] += delta
        params["fast"] = jax.tree.map(lambda p, g: p - own.inner_rate * g, params["fast"], gradient)
    return params


def query_loss(kind, own, params, row, support, query):
    return loss_of(own.loss, query, lambda item: score_of(kind, params, row, support, item))


def whole_loss(kind, own, params, row, support, query):
    """The query's loss after adaptation."""
    after = adapted(kind, own, params, row, support, own.inner_steps)
    return query_loss(kind, own, after, row, support, query)


# --- parameters and tasks ---


def random_params(kind, seed=0):
    """Float64, every entry random, biases too."""
    shapes = jax.eval_shape(lambda key: kind.predictor.init(key, USERS, ITEMS), jax.random.key(0))
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.8 * generator.standard_normal(leaf.shape), shapes)


class Task(NamedTuple):
    """Positives, which are real, and their negatives."""

    item_K: np.ndarray
    real_K: np.ndarray
    negative_KN: np.ndarray

    def samples(self, start=0, stop=None):
        """The real ones as (item, negatives)."""
        return [
            (self.item_K[k], list(self.negative_KN[k]))
            for k in range(*slice(start, stop).indices(len(self.item_K)))
            if self.real_K[k]
        ]

    def cut(self, stop):
        return Task(*(array[:stop] for array in self))


# One item twice in the support, items 7 and 8 in the query alone; item 5 a positive and a negative.
TASK = Task(
    np.array([1, 5, 1, 7, 0, 8, 3], np.int32),
    np.array([True, True, True, True, False, True, True]),
    np.array([[2, 3], [4, 4], [2, 6], [0, 5], [6, 2], [2, 4], [6, 0]], np.int32),
)
QUERY_ONLY = (7, 8)
loss_and_gradient = jax.jit(jax.value_and_grad(task_loss, argnums=2), static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1, 4))
def personalised(predictor, own, params, task, steps, row):
    user = predictor.user(params["shared"], row, task.item_K, task.real_K)
    return personalise(predictor, own, params, user, *task, steps)


def personalise_on(kind, own, params, task, steps, row=ROW):
    """What the library adapts on a support of any length."""
    return personalised(kind.predictor, own, params, task, steps, row)


@partial(jax.jit, static_argnums=0)
def scores(predictor, params, row, item_K, real_K, item):
    user = predictor.user(params["shared"], row, item_K, real_K)
    return predictor.logits(params["fast"], params["shared"], user, item)


def leaves(tree):
    """(path, leaf) of nested dicts."""
    return [
        (jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.flatten_with_path(tree)[0]
    ]


def assert_close(one, other, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, **({"rtol": 1e-9, "atol": 1e-12} | tolerance)
        ),
        one,
        other,
    )


def assert_slopes(gradient, function, params, seed=0, step=1e-6):
    """Entries of a gradient against central differences: the steepest of every leaf and a few others."""
    generator = np.random.default_rng(seed)
    moved = copy.deepcopy(params)
    for (name, leaf), (_, derivative) in zip(leaves(moved), leaves(gradient), strict=True):
        derivative = np.asarray(derivative)
        flat = {int(np.abs(derivative).argmax()), *generator.integers(0, leaf.size, 4).tolist()}
        for place in flat:
            at = np.unravel_index(place, leaf.shape)
            kept, side = leaf[at], {}
            for sign in (1, -1):
                leaf[at] = kept + sign * step  # in place: the function reads the same tree
                side[sign] = function(moved)
            leaf[at] = kept
            expected = (side[1] - side[-1]) / (2 * step)
            assert derivative[at] == pytest.approx(expected, rel=1e-6, abs=1e-8), (name, at)


# --- forward ---


@pytest.mark.parametrize("row", [ROW, NEWCOMER], ids=["regular", "new"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_scores_of_every_item(kind, row):
    with jax.enable_x64(True):
        params, support = random_params(kind), TASK.cut(SUPPORT)
        item_XY = np.arange(ITEMS).reshape(3, 3)
        logit_XY = scores(kind.predictor, params, row, support.item_K, support.real_K, item_XY)
    expected = [score_of(kind, params, row, support.samples(), item) for item in range(ITEMS)]
    np.testing.assert_allclose(logit_XY, np.reshape(expected, (3, 3)), rtol=1e-9)
    assert np.ptp(expected) > 0.1


def test_widths_are_those_of_the_specification():
    """MetaCS-L is w . e_i + b; MetaCS-DNN 128, 64, 1; MeLU 2 D, 64, 64, 1 with a row that new users share."""
    shapes = {}
    for name, kind in {
        "metacs-l": metacs_of(*metacs.WIDTHS["metacs-l"]),
        "metacs-dnn": metacs_of(*metacs.WIDTHS["metacs-dnn"]),
        "melu": melu_of("shared", hidden=MeLUConfig().hidden),
    }.items():
        params = random_params(kind)
        shapes[name] = [params["fast"][layer]["kernel"].shape for layer in kind.layers]
        assert set(params["fast"]) == set(kind.layers)
        assert params["shared"]["item"].shape == (ITEMS, DIM)
    assert shapes["metacs-l"] == [(DIM, 1)]
    assert shapes["metacs-dnn"] == [(DIM, 128), (128, 64), (64, 1)]
    assert shapes["melu"] == [(2 * DIM, 64), (64, 64), (64, 1)]
    assert params["shared"]["user"].shape == (USERS + 1, DIM)


# --- the loss of a set ---

jitted_set_loss = jax.jit(
    lambda score_I, loss, *task: set_loss(lambda item: score_I[item], loss, *task),
    static_argnums=1,
)
SETS = st.tuples(
    st.lists(st.floats(-20, 20), min_size=6, max_size=6),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=4, max_size=4),
    st.permutations(range(4)),
)


@pytest.mark.parametrize("loss", ["bce", "mse", "bpr"])
@settings(max_examples=40)
@given(given_set=SETS)
def test_loss_of_a_set(loss, given_set):
    """The mean over what is real, in any order; what is masked may be anything, and nothing costs nothing."""
    score, item, real, negative, order = given_set
    score_I = np.float32(score)
    task = Task(np.int32(item), np.array(real), np.int32(negative))
    expected = loss_of(loss, task.samples(), lambda item: np.float64(score_I[item]))
    value = jitted_set_loss(score_I, loss, *task)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    assert any(real) or value == 0
    turned = jitted_set_loss(score_I, loss, *(array[list(order)] for array in task))
    np.testing.assert_allclose(turned, value, rtol=1e-5, atol=1e-6)
    garbage = task._replace(
        item_K=np.where(task.real_K, task.item_K, 5 - task.item_K),
        negative_KN=np.where(task.real_K[:, None], task.negative_KN, 5 - task.negative_KN),
    )
    assert jitted_set_loss(score_I, loss, *garbage) == value


# --- adaptation ---


@pytest.mark.parametrize(
    ("name", "loss", "row", "steps"),
    [
        ("metacs-l", "bce", ROW, 2),
        ("metacs-dnn", "mse", ROW, 2),
        ("metacs-embeddings", "bpr", ROW, 1),
        ("melu", "bce", ROW, 2),
        ("melu-zero", "mse", NEWCOMER, 1),
        ("melu-support", "bpr", NEWCOMER, 2),
    ],
)
def test_steps_descend_on_the_support(name, loss, row, steps):
    """Gradients by hand; the same negatives in both steps; one of the support is masked out."""
    kind, own = KINDS[name], dataclasses.replace(OWN, loss=loss)
    support = Task(TASK.item_K[:4], np.array([True, False, True, True]), TASK.negative_KN[:4])
    params = random_params(kind, seed=1)
    with jax.enable_x64(True):
        fast = personalise_on(kind, own, params, support, steps, row)
    expected = adapted(kind, own, params, row, support.samples(), steps)["fast"]
    assert_close(fast, expected)
    for path, change in leaves(jax.tree.map(lambda a, b: np.abs(a - b), expected, params["fast"])):
        # A ranking loss does not see what is added to all scores.
        unseen = loss == "bpr" and path == f"['{kind.layers[-1]}']['bias']"
        assert (change.max() > 1e-4) != unseen, path


def test_melu_adapts_decision_layers_and_metacs_the_whole_predictor():
    for name, kind in KINDS.items():
        embeddings = {"item"} if name == "metacs-embeddings" else set()
        assert set(random_params(kind)["fast"]) == set(kind.layers) | embeddings
    kind = KINDS["metacs-embeddings"]
    params, support = random_params(kind, seed=1), TASK.cut(SUPPORT)  # no item is dead
    with jax.enable_x64(True):
        fast = personalise_on(kind, OWN, params, support, 2)
    touched = {*support.item_K.tolist(), *support.negative_KN.ravel().tolist()}
    moved_I = (np.asarray(fast["item"]) != params["fast"]["item"]).any(axis=1)
    assert set(np.flatnonzero(moved_I).tolist()) == touched


@pytest.mark.parametrize("name", ["metacs-dnn", "melu-support"])
def test_order_and_padding_of_the_support_do_not_matter(name):
    kind, params = KINDS[name], random_params(KINDS[name])
    support = TASK.cut(SUPPORT)
    padding = Task(np.int32([0, 6]), np.array([False, False]), np.int32([[8, 7], [0, 0]]))
    padded = Task(*(np.concatenate(pair) for pair in zip(padding, support, strict=True)))
    turned = Task(*(array[[2, 0, 1]] for array in support))
    with jax.enable_x64(True):
        fast = personalise_on(kind, OWN, params, support, 2, NEWCOMER)
        for other in (padded, turned):
            assert_close(personalise_on(kind, OWN, params, other, 2, NEWCOMER), fast)


def test_an_empty_support_leaves_the_model_unadapted():
    kind, own = KINDS["melu-support"], dataclasses.replace(OWN, loss="bpr", inner_steps=1)
    params = random_params(kind)
    nothing = TASK._replace(real_K=TASK.real_K & (np.arange(SUPPORT + QUERY) >= SUPPORT))
    with jax.enable_x64(True):
        fast = personalise_on(kind, own, params, nothing.cut(SUPPORT), 2, NEWCOMER)
        value, gradient = loss_and_gradient(kind.predictor, own, params, NEWCOMER, *nothing)
    jax.tree.map(np.testing.assert_array_equal, fast, params["fast"])
    expected = query_loss(kind, own, params, NEWCOMER, [], nothing.samples(SUPPORT))
    assert value == pytest.approx(expected, rel=1e-9)
    assert all(np.isfinite(leaf).all() for _, leaf in leaves(gradient))


# --- the outer gradient ---


@pytest.mark.parametrize(
    ("name", "loss", "steps", "row"),
    [
        ("metacs-dnn", "bpr", 2, ROW),
        ("metacs-embeddings", "mse", 1, ROW),
        ("melu", "bce", 2, ROW),
        ("melu", "mse", 1, NEWCOMER),
        ("melu-support", "bpr", 1, NEWCOMER),
    ],
)
def test_outer_gradient_is_of_second_order(name, loss, steps, row):
    kind = KINDS[name]
    own = dataclasses.replace(OWN, loss=loss, inner_steps=steps)
    params, samples = random_params(kind, seed=2), (TASK.samples(0, SUPPORT), TASK.samples(SUPPORT))

    def function(params):
        return whole_loss(kind, own, params, row, *samples)

    with jax.enable_x64(True):
        value, gradient = loss_and_gradient(kind.predictor, own, params, row, *TASK)
    assert value == pytest.approx(function(params), rel=1e-9)
    assert_slopes(gradient, function, params)
    # Items of the query alone are not adapted, and yet they are learned.
    item_ID = np.asarray(table_of(gradient))
    assert all(np.abs(item_ID[item]).max() > 1e-4 for item in QUERY_ONLY)
    if kind.user_vector:
        learned = {ROW} if row == ROW else {USERS} if kind.user_vector == "shared" else set()
        user_RD = np.asarray(gradient["shared"]["user"])
        assert set(np.flatnonzero(user_RD.any(axis=1)).tolist()) == learned


@pytest.mark.parametrize(("name", "loss"), [("metacs-dnn", "bpr"), ("melu", "bce")])
def test_first_order_is_the_query_gradient_at_the_adapted_point(name, loss):
    kind = KINDS[name]
    own = dataclasses.replace(OWN, loss=loss, inner_steps=2, first_order=True)
    exact = dataclasses.replace(own, first_order=False)
    params = random_params(kind, seed=2)
    support, query = TASK.samples(0, SUPPORT), TASK.samples(SUPPORT)
    after = adapted(kind, own, params, ROW, support, 2)
    with jax.enable_x64(True):
        value, gradient = loss_and_gradient(kind.predictor, own, params, ROW, *TASK)
        same, other = loss_and_gradient(kind.predictor, exact, params, ROW, *TASK)
    assert value == pytest.approx(float(same), rel=1e-9)
    assert_slopes(gradient, lambda after: query_loss(kind, own, after, ROW, support, query), after)
    for part in ("fast", "shared"):
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), gradient[part], other[part])
        assert max(jax.tree.leaves(apart)) > 1e-2


# --- models on a protocol: an epoch of training, serving ---

# The last event of each is held out; user 2 has one event left, and user 4 is new.
HISTORIES = [[0, 1, 2, 3, 8], [4, 5, 8], [6, 8], [7, 2, 5, 0, 1, 4, 3, 8], [6, 1, 8]]
MODELS = {
    "metacs-l": (metacs.metacs_l, {}, metacs_of()),
    "metacs-dnn": (metacs.metacs_dnn, {}, metacs_of(128, 64)),
    "melu": (melu.melu, {}, melu_of("shared")),
    "melu-support": (melu.melu, {"user_vector": "support"}, melu_of("support")),
}


def protocol() -> Protocol:
    return Protocol(
        config=ProtocolConfig(),
        name="by hand",
        item_ids=np.arange(ITEMS),
        user_ids=np.arange(len(HISTORIES)),
        role_U=np.array([REGULAR] * USERS + [NEW], np.uint8),
        offset_U1=np.cumsum([0, *map(len, HISTORIES)]),
        item_E=np.array([item for history in HISTORIES for item in history], np.int32),
        time_E=np.zeros(sum(map(len, HISTORIES)), np.int64),
        negative_NC={},
        mask_seen=True,
        item_features=None,
        user_features=None,
        manifest={},
    )


def model_of(name, **changes):
    """(model, config, the same for the reference)."""
    build, more, kind = MODELS[name]
    same = {field.name: getattr(OWN, field.name) for field in dataclasses.fields(OWN)}
    same |= {"tasks": 4, "inner_steps": 2, "outer_rate": 0.05} | changes
    config = Config()
    if kind.user_vector:
        config = dataclasses.replace(config, melu=MeLUConfig(**{"hidden": 5} | same | more))
        own = config.melu
    else:
        own = MetaCSConfig(**same)
        config = dataclasses.replace(config, metacs=own)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dim=DIM, max_length=4),
        train=dataclasses.replace(config.train, steps=1, chunk=1),
    )
    return build(protocol(), config), config, own, kind


jitted_negatives = jax.jit(served_negatives, static_argnums=(1, 2, 3, 4))


@pytest.mark.parametrize("name", ["metacs-l", "melu-support"])
def test_served_scores(name):
    """A regular user, a new one and one of whom nothing is known, at 0 and 2 steps."""
    histories = [[4, 5], [6, 1, 6], []]
    batch = case_batch(
        np.cumsum([0, *map(len, histories)]),
        np.array([item for history in histories for item in history], np.int32),
        max_length=4,
        max_support=3,
        user_N=np.array([1, -1, -1], np.int32),
    )
    with jax.enable_x64(True):
        model, config, own, kind = model_of(name)
        params = random_params(kind, seed=3)
        count = 4 * NEGATIVES
        drawn = jitted_negatives(batch, config.protocol.seed, ITEMS, 1, count)
        negative_BLN = np.asarray(drawn).reshape(3, 4, NEGATIVES)
        served = model.bind(params)
        score_BI = {steps: np.asarray(served(batch, steps)) for steps in (0, 2)}
    for b, history in enumerate(histories):
        support = [
            (item, list(negative_BLN[b, 4 - len(history) + n])) for n, item in enumerate(history)
        ]
        assert not {n for _, negatives in support for n in negatives} & set(history)
        row = batch.user_B[b]
        for steps in score_BI:
            after = adapted(kind, own, params, row, support, steps)
            expected = [score_of(kind, after, row, support, item) for item in range(ITEMS)]
            np.testing.assert_allclose(score_BI[steps][b], expected, rtol=1e-8, atol=1e-10)
    if not kind.user_vector:  # nothing of a user is known but the support
        assert (score_BI[0] == score_BI[0][0]).all()
    assert (score_BI[0][2] == score_BI[2][2]).all()
    assert np.abs(score_BI[0][:2] - score_BI[2][:2]).max(axis=1).min() > 1e-3


@partial(jax.jit, static_argnums=(2, 3, 4))
def epoch_draws(key, histories, tasks, share, updates):
    """What the only update of the first epoch draws: (users, items, real), negatives, who is hidden."""
    (key,) = jax.random.split(jax.random.fold_in(key, 0), updates)
    set_key, negative_key, hide_key = jax.random.split(key, 3)
    drawn = draw_sets(set_key, histories, tasks, SUPPORT, QUERY)
    count = (SUPPORT + QUERY) * NEGATIVES
    negative_UM = draw_negatives(negative_key, histories.known, drawn[0], ITEMS, count)
    negative_UKN = negative_UM.reshape(tasks, -1, NEGATIVES)
    return drawn, negative_UKN, jax.random.bernoulli(hide_key, share, (tasks,))


@pytest.mark.parametrize("name", ["melu"])
def test_an_epoch_of_one_update(name):
    """Its loss on the sets it drew, task by task; Adam's first step is the rate against the sign of the gradient."""
    share = 0.75 if name == "melu" else 0.0
    with jax.enable_x64(True):
        model, _, own, kind = model_of(name, **({"id_dropout": share} if share else {}))
        params = random_params(kind, seed=4)
        start = jax.tree.map(jnp.asarray, params)
        state = start_state(start, optax.adam(own.outer_rate))
        (phase,) = model.phases
        state, report = phase.chunk(state, model.data, jax.random.key(5))
        after = jax.device_get(state.params)
        drawn = epoch_draws(jax.random.key(5), model.data, own.tasks, share, 1)
        (row_U, item_UK, real_UK), negative_UKN, hidden_U = jax.device_get(drawn)
    assert (state.step, report.loss.shape, phase.per_step) == (1, (1,), own.tasks)
    assert hidden_U.any() == bool(share) and not hidden_U.all()
    tasks = []
    for row, hidden, *arrays in zip(row_U, hidden_U, item_UK, real_UK, negative_UKN, strict=True):
        task = Task(*arrays)
        assert row != 2 and not set(task.negative_KN.ravel()) & set(HISTORIES[row][:-1])
        tasks.append((-1 if hidden else row, task.samples(0, SUPPORT), task.samples(SUPPORT)))

    def function(params):
        return np.mean([whole_loss(kind, own, params, row, *sets) for row, *sets in tasks])

    assert report.loss[0] == pytest.approx(function(params), rel=1e-9)
    if kind.user_vector:
        moved_R = (after["shared"]["user"] != params["shared"]["user"]).any(axis=1)
        rows = {USERS if hidden else row for row, hidden in zip(row_U, hidden_U, strict=True)}
        assert set(np.flatnonzero(moved_R)) == rows and len(rows) > 1
    for (path, leaf), (_, end) in zip(leaves(params), leaves(after), strict=True):
        change = end - leaf
        at = np.unravel_index(np.abs(change).argmax(), leaf.shape)
        kept, side = leaf[at], {}
        for sign in (1, -1):
            leaf[at] = kept + sign * 1e-6
            side[sign] = function(params)
        leaf[at] = kept
        slope = np.sign(side[1] - side[-1])
        assert change[at] == pytest.approx(-own.outer_rate * slope, rel=1e-3), path


def test_an_epoch_covers_the_users_that_have_a_task():
    """Three of the four regular users have two events: two updates of two tasks."""
    (phase,) = model_of("metacs-l", tasks=2)[0].phases
    assert (phase.per_step, phase.counts, phase.steps) == (4, "tasks", 1)


# --- drawing sets: items are 100 * user + position, so that a draw can be traced to its event ---

COUNTS = [2, 1, 3, 0, 5, 7, 8, 20]
ELIGIBLE = [user for user, count in enumerate(COUNTS) if count >= 2]
SIZE = (3, 5)  # support, query
DRAWS = 20_000


@pytest.fixture(scope="module")
def drawn():
    """user -> (positions [n, 8], which are real [n, 8])."""
    offset_R1 = np.concatenate([[0], np.cumsum(COUNTS)]).astype(np.int64)
    item_F = np.concatenate([100 * user + np.arange(count) for user, count in enumerate(COUNTS)])
    histories = make_histories(offset_R1, item_F)
    draw = jax.jit(draw_sets, static_argnums=(2, 3, 4))
    user_U, item_UK, real_UK = map(np.asarray, draw(jax.random.key(0), histories, DRAWS, *SIZE))
    assert item_UK.shape == real_UK.shape == (DRAWS, 8)
    assert (item_UK // 100 == user_U[:, None])[real_UK].all()
    return {u: (item_UK[user_U == u] % 100, real_UK[user_U == u]) for u in range(len(COUNTS))}


def test_users_with_an_event_to_spare_are_drawn_uniformly(drawn):
    for user, (position_UK, _) in drawn.items():
        expected = DRAWS / len(ELIGIBLE) if user in ELIGIBLE else 0
        assert abs(len(position_UK) - expected) <= 5 * expected**0.5


def test_support_and_query_are_disjoint_and_cover_short_histories(drawn):
    for user in ELIGIBLE:
        count = COUNTS[user]
        for position_K, real_K in zip(*drawn[user], strict=True):
            support, query = (
                position_K[part][real_K[part]].tolist() for part in (slice(3), slice(3, 8))
            )
            both = support + query
            assert len(set(both)) == len(both) == min(count, 8)
            assert support and query
            assert abs(len(support) - min(count, 8) * 3 / 8) < 1
            if count <= 8:
                assert set(both) == set(range(count))


def test_every_event_is_drawn_for_either_set(drawn):
    """Of the times that a position is drawn, three in eight are for the support, wherever it is in a long history."""
    for user in ELIGIBLE:
        position_UK, real_UK = drawn[user]
        of_support, of_query = (
            np.bincount(position_UK[:, part][real_UK[:, part]], minlength=COUNTS[user])
            for part in (slice(3), slice(3, 8))
        )
        assert of_support.min() > 0 and of_query.min() > 0
        total = of_support + of_query
        share = of_support.sum() / total.sum()
        assert (np.abs(of_support / total - share) < 5 * (0.25 / total) ** 0.5).all()
        if COUNTS[user] >= 8:
            assert share == 3 / 8
        drawn_per_event = total / len(position_UK)
        assert drawn_per_event.min() > 0.5 * min(1, 8 / COUNTS[user])


def test_long_histories_come_in_random_order(drawn):
    position_UK, _ = drawn[7]
    for left, right in [(0, 1), (0, 7), (3, 4)]:
        earlier = np.mean(position_UK[:, left] < position_UK[:, right])
        assert abs(earlier - 0.5) < 5 * 0.5 / len(position_UK) ** 0.5
