"""CSAN against loops in float64: vectors, losses, gradients, fine-tuning; and what may not matter.

Dimension key: B windows or users, L positions, D = dim, I items, N negatives, K support prefixes, S adaptation steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import LOG

from metacsr_jax import settings
from metacsr_jax.baselines.csan import csan, make_encoder
from metacsr_jax.baselines.sequence import window_loss
from metacsr_jax.baselines.training import served_negatives
from metacsr_jax.cases import case_batch
from metacsr_jax.config import Config, CSANConfig, ProtocolConfig
from metacsr_jax.protocol import REGULAR, Protocol

DIM, LENGTH, ITEMS = 3, 4, 7
HISTORIES = [[], [3], [2, 5], [6, 1, 6], [0, 4, 5, 2]]
KINDS = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


@pytest.fixture(scope="module", autouse=True)
def precise():
    """64 bits, as the loops have."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def params():
    """Every parameter random, biases too; the first dense layer's large enough that few units are off."""
    encoder = make_encoder(DIM, CSANConfig())
    shapes = jax.eval_shape(lambda key: encoder.init(key, ITEMS), jax.random.key(0))
    generator = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: 0.7 * generator.standard_normal(leaf.shape), shapes)
    drawn["network"]["b0"] = np.array([0.8, 0.5, 1.1])
    return drawn


@pytest.fixture(scope="module")
def encoders():
    """Per activation, encode(params, context_BL, length_B) without dropout, compiled once."""

    def compiled(activation):
        encoder = make_encoder(DIM, CSANConfig(activation=activation))
        return jax.jit(jax.vmap(lambda *given: encoder.encode(*given, None), (None, 0, 0)))

    return {activation: compiled(activation) for activation in KINDS}


def softmax_of(rows):
    """Over rows, for each feature by itself."""
    e = [np.exp(row) for row in rows]
    return [row / sum(e) for row in e]


def reference(params, history, activation):
    """The sequence vector of a history, oldest event first, no padding anywhere."""
    if not len(history):
        return np.zeros(DIM)
    net, f = params["network"], KINDS[activation]
    x = [np.maximum(params["items"]["in"][item] @ net["W0"] + net["b0"], 0) for item in history]
    h = []
    for n, x_n in enumerate(x):
        both = []
        for name, partners in (("fw", range(n)), ("bw", range(n + 1, len(x)))):
            block, h_D = net[name], np.zeros(DIM)
            cor = [
                f(x[m] @ block["W1"] + x_n @ block["W2"] + block["b"]) @ block["W"] - abs(m - n)
                for m in partners
            ]
            for m, weight_D in zip(partners, softmax_of(cor), strict=True):
                h_D = h_D + weight_D * x[m]
            both.append(h_D)
        h.append(np.concatenate(both) @ net["join"] + net["join_bias"])
    token = [f(h_D @ net["P1"] + net["p1"]) @ net["P2"] + net["p2"] for h_D in h]
    return sum(w_D * h_D for w_D, h_D in zip(softmax_of(token), h, strict=True))


def reference_loss(params, activation, kind, samples):
    """Mean loss of (history, target, negatives)."""
    total, table_ID = 0.0, params["items"]["in"]
    for history, target, negatives in samples:
        score_I = table_ID @ reference(params, history, activation)
        if kind == "softmax":
            total += np.log(np.exp(score_I).sum()) - score_I[target]
        else:
            margin = score_I[target] - score_I[np.asarray(negatives)]
            total += np.mean(np.log1p(np.exp(-margin)))
    return total / len(samples)


def slope(loss, leaf, place):
    """Central difference of a loss that reads `leaf`."""
    kept, side = leaf[place], []
    for sign in (1, -1):
        leaf[place] = kept + sign * 1e-5
        side.append(loss())
    leaf[place] = kept
    return (side[0] - side[1]) / 2e-5


def copy_of(tree):
    return jax.tree.map(np.array, tree)


def left_padded(histories, padding=0):
    context_BL = np.full((len(histories), LENGTH), padding, np.int32)
    for row, history in enumerate(histories):
        context_BL[row, LENGTH - len(history) :] = history
    return context_BL, np.array([len(history) for history in histories], np.int32)


@pytest.mark.parametrize("activation", KINDS)
def test_vectors_and_scores(params, encoders, activation):
    wanted_BD = np.array([reference(params, history, activation) for history in HISTORIES])
    s_BD = encoders[activation](params, *left_padded(HISTORIES))
    np.testing.assert_allclose(s_BD, wanted_BD, rtol=1e-9, atol=1e-12)
    table_ID = make_encoder(DIM, CSANConfig()).table(params)
    np.testing.assert_allclose(
        s_BD @ table_ID.T, wanted_BD @ params["items"]["in"].T, rtol=1e-9, atol=1e-12
    )
    assert np.ptp(wanted_BD[2:], axis=0).min() > 0.01  # agreement on a constant would show nothing


def test_a_lone_event_has_nothing_to_attend_to(params, encoders):
    """As the reading has it: the vector of one event is a bias, whatever the event; of none, zeros."""
    s_BD = encoders["tanh"](params, *left_padded([[], [0], [5]]))
    assert not s_BD[0].any()
    np.testing.assert_allclose(s_BD[1:], [params["network"]["join_bias"]] * 2, rtol=1e-12)


def test_what_is_under_the_padding_does_not_matter(params, encoders):
    plain, other = (
        np.asarray(encoders["tanh"](params, *left_padded(HISTORIES, padding)))
        for padding in (0, ITEMS - 1)
    )
    assert plain.tobytes() == other.tobytes()


def test_order_matters(params, encoders):
    s_BD = encoders["tanh"](params, *left_padded([[2, 5, 1], [5, 2, 1], [2, 1, 5], [1, 5, 2]]))
    for one in range(4):
        for other in range(one):
            assert np.abs(s_BD[one] - s_BD[other]).max() > 1e-3


def one_direction(params, name):
    """Parameters with which s is the mean over positions of h_fw or h_bw."""
    changed = copy_of(params)
    net = changed["network"]
    net["join"] = np.concatenate([np.eye(DIM) * (name == which) for which in ("fw", "bw")])
    net |= {"join_bias": np.zeros(DIM), "P2": np.zeros((DIM, DIM)), "p2": np.zeros(DIM)}
    return changed


@pytest.mark.parametrize(("name", "blind"), [("fw", 3), ("bw", 0)])
def test_forward_sees_the_past_only_and_backward_the_future(params, encoders, name, blind):
    """An item's influence through what attends to it: nobody is left to attend to the last, or to the first."""
    history = [0, 4, 5, 2]
    changed = one_direction(params, name)
    changed["network"][name]["W2"] = np.zeros((DIM, DIM))  # nor may it steer its own attention

    def vectors(table_ID):
        given = {"items": {"in": table_ID}, "network": changed["network"]}
        return encoders["tanh"](given, *left_padded([history]))[0]

    influence_DID = jax.jacobian(vectors)(changed["items"]["in"])
    of_position = np.abs(influence_DID).max(axis=(0, 2))[history]
    assert of_position[blind] == 0
    assert (np.delete(of_position, blind) > 1e-3).all()
    # Of two events, one has exactly one partner, and the mean over positions is half of it.
    seen = {"fw": 0, "bw": 1}[name]
    net = changed["network"]
    for pair in ([4, 5], [5, 4]):
        x_D = np.maximum(changed["items"]["in"][pair[seen]] @ net["W0"] + net["b0"], 0)
        s_D = encoders["tanh"](changed, *left_padded([pair]))[0]
        np.testing.assert_allclose(s_D, x_D / 2, rtol=1e-12)


def test_derivatives_of_short_histories_are_finite(params):
    encoder = make_encoder(DIM, CSANConfig())

    def total(params, length):
        s_D = encoder.encode(params, jnp.array([6, 6, 2, 5]), length, None)
        return jnp.sum(jnp.sin(s_D)) + jnp.sum(jnp.cos(encoder.table(params) @ s_D))

    def steepness(params, length):
        gradient = jax.grad(total)(params, length)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)), gradient

    derivatives = jax.jit(jax.grad(steepness, has_aux=True))
    for length in (0, 1, 2):
        second, first = derivatives(params, length)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first, second)))
        moved = any(np.asarray(leaf).any() for leaf in jax.tree.leaves(second["network"]))
        assert moved == (length > 0)


def test_dropout_needs_a_key(params):
    """Off without a key; with one, entries of s are dropped or scaled up, and the key decides."""
    plain, half = (make_encoder(DIM, CSANConfig(dropout=rate)) for rate in (0.0, 0.5))
    context_L, key = jnp.array([0, 4, 5, 2]), jax.random.key(3)
    without, without_key, idle = jax.jit(
        lambda: (
            plain.encode(params, context_L, 4, None),
            half.encode(params, context_L, 4, None),
            plain.encode(params, context_L, 4, key),
        )
    )()
    np.testing.assert_array_equal(without, without_key)
    np.testing.assert_array_equal(without, idle)
    draw = jax.jit(jax.vmap(lambda key, length: half.encode(params, context_L, length, key)))
    keys = jax.random.split(key, 400)
    s_BD = np.asarray(draw(keys, jnp.full(400, 4)))
    np.testing.assert_array_equal(s_BD, draw(keys, jnp.full(400, 4)))
    kept = s_BD != 0
    assert abs(kept.mean() - 0.5) < 0.07  # 1200 coins, five standard deviations
    # What is kept differs too: item vectors are dropped before the attention.
    assert len(np.unique(np.round(s_BD[:, 0][kept[:, 0]], 9))) > 10
    # A lone event's vector is a bias, so that only the dropout at the end shows.
    bias_D = params["network"]["join_bias"]
    lone_BD = np.asarray(draw(keys, jnp.full(400, 1)))
    np.testing.assert_allclose(lone_BD, np.where(lone_BD != 0, 2 * bias_D, 0), rtol=1e-12)


@pytest.mark.parametrize(("activation", "kind"), [("tanh", "bpr"), ("sigmoid", "softmax")])
def test_loss_and_gradient(params, activation, kind):
    """At some coordinates of every parameter; the last window but one does not count."""
    own = copy_of(params)
    target_B = np.array([4, 0, 1, 3, 6], np.int32)
    negative_BN = np.array([[0, 1], [5, 2], [3, 3], [0, 0], [1, 3]], np.int32)
    real_B = np.array([True, True, True, False, True])
    samples = [
        sample
        for sample, real in zip(
            zip(HISTORIES, target_B, negative_BN, strict=True), real_B, strict=True
        )
        if real
    ]
    config = CSANConfig(activation=activation, loss=kind)
    encoder = make_encoder(DIM, config)

    def loss(params):
        given = *left_padded(HISTORIES), target_B
        negatives = negative_BN if kind == "bpr" else None
        return window_loss(encoder, config, params, *given, negatives, real_B)

    value, gradient = jax.jit(jax.value_and_grad(loss))(own)
    np.testing.assert_allclose(value, reference_loss(own, activation, kind, samples), rtol=1e-9)
    generator, largest = np.random.default_rng(1), []
    for leaf, found in zip(jax.tree.leaves(own), jax.tree.leaves(gradient), strict=True):
        places = generator.choice(leaf.size, 3, replace=False)
        for place in (np.unravel_index(flat, leaf.shape) for flat in places):
            wanted = slope(lambda: reference_loss(own, activation, kind, samples), leaf, place)
            np.testing.assert_allclose(found[place], wanted, rtol=1e-5, atol=1e-9)
        largest.append(np.abs(found).max())
    assert min(largest[:-1]) > 1e-7 and max(largest) > 1e-2


def make_protocol(histories) -> Protocol:
    """Regular users; the last event of each is held out."""
    return Protocol(
        config=ProtocolConfig(),
        name="by hand",
        item_ids=np.arange(ITEMS),
        user_ids=np.arange(len(histories)),
        role_U=np.full(len(histories), REGULAR, np.uint8),
        offset_U1=np.cumsum([0, *map(len, histories)]),
        item_E=np.concatenate(histories).astype(np.int32),
        time_E=np.zeros(sum(map(len, histories)), np.int64),
        negative_NC={},
        mask_seen=True,
        item_features=None,
        user_features=None,
        manifest={},
    )


@pytest.mark.parametrize("kind", ["bpr", "softmax"])
def test_served_users_are_scored_and_fine_tuned(params, kind):
    """Two steps on a support's prefixes, the gradient by central differences; item vectors stay as they are."""
    sizes = {"train.model": "csan", "model.dim": DIM, "model.max_length": LENGTH}
    own = {"csan.loss": kind, "csan.negatives": 2, "csan.adapt_rate": 0.3}
    config = settings.replace(Config(), LOG | sizes | own)
    served = [[6], [5, 0, 2, 3, 1]] if kind == "bpr" else [[6], [4, 1, 1]]
    batch = case_batch(
        np.cumsum([0, *map(len, served)]), np.concatenate(served), LENGTH, max_support=3
    )
    score = csan(make_protocol([[0, 1, 2], [3, 4, 5, 6]]), config).bind(params)
    before_BI, after_BI = score(batch, 0), score(batch, 2)
    drawn = served_negatives(batch, config.protocol.seed, ITEMS, 2, 3 * 2)
    negative_BSKN = np.asarray(drawn).reshape(len(served), 2, 3, 2)

    for row, history in enumerate(served):
        tuned = copy_of(params)
        places = [place for place in range(len(history) - 3, len(history)) if place > 0]
        for negative_KN in negative_BSKN[row] if places else ():
            samples = [
                (history[max(0, place - LENGTH) : place], history[place], negative_N)
                for place, negative_N in zip(places, negative_KN[-len(places) :], strict=True)
            ]
            steps = [
                0.3
                * np.reshape(
                    [
                        slope(lambda: reference_loss(tuned, "tanh", kind, samples), leaf, place)  # noqa: B023
                        for place in np.ndindex(leaf.shape)
                    ],
                    leaf.shape,
                )
                for leaf in jax.tree.leaves(tuned["network"])
            ]
            for leaf, step in zip(jax.tree.leaves(tuned["network"]), steps, strict=True):
                leaf -= step
        for found_I, network in ((before_BI[row], params), (after_BI[row], tuned)):
            s_D = reference(network, history[-LENGTH:], "tanh")
            np.testing.assert_allclose(found_I, params["items"]["in"] @ s_D, rtol=1e-7, atol=1e-9)
    moved_B = np.abs(after_BI - before_BI).max(axis=1)
    assert moved_B[0] == 0 and (moved_B[1:] > 1e-3).all()
