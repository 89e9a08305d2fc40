"""GRU4Rec and SASRec: twins in PyTorch, what a position can see, windows, losses over positions, fine-tuning.

Dimension key: B windows, L positions, D = dim, I items, N negatives, R users, F their events, S adaptation steps.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metacsr_jax import settings
from metacsr_jax.baselines import causal, gru4rec, sasrec
from metacsr_jax.baselines.causal import CausalEncoder, draw_windows, position_loss, reading
from metacsr_jax.baselines.sequence import dropped, make_score
from metacsr_jax.baselines.training import served_negatives
from metacsr_jax.cases import case_batch
from metacsr_jax.config import CausalConfig, Config, GRU4RecConfig, SASRecConfig
from metacsr_jax.errors import ConfigError
from metacsr_jax.registry import MODELS
from metacsr_jax.tasks import make_histories

DIM, LENGTH, ITEMS = 4, 6, 9
OWN = {"window": LENGTH + 2, "dropout": 0.5, "negatives": 3, "adapt_rate": 0.3}
SHAPES = {f"sasrec-{n}-{h}": {"layers": n, "heads": h} for n in (1, 2) for h in (1, 2)}
BOTH = ("gru4rec", "sasrec-2-2")
HISTORY = [3, 7, 1, 8, 0, 4]
# One shape for all calls, so that every network is compiled once: the history, and one of its items changed at a time.
WINDOW_BL = np.array([HISTORY] * (LENGTH + 1), np.int32)
WINDOW_BL[np.arange(LENGTH) + 1, np.arange(LENGTH)] = [2, 5, 6, 2, 5, 6]


@pytest.fixture(scope="module", autouse=True)
def precise():
    """64 bits, as the loops and the twins have."""
    with jax.enable_x64(True):
        yield


def make(name, **own):
    """The settings and the network of a model."""
    if name == "gru4rec":
        config = GRU4RecConfig(**{**OWN, **own})
        return config, gru4rec.make_encoder(DIM, config)
    config = SASRecConfig(**{**OWN, **SHAPES[name], **own})
    return config, sasrec.make_encoder(DIM, config)


def random_params(encoder):
    """Every parameter random, biases and norms too."""
    shapes = jax.eval_shape(lambda key: encoder.init(key, ITEMS), jax.random.key(0))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.7 * generator.standard_normal(leaf.shape), shapes)


@pytest.fixture(scope="module")
def models():
    """Builds a model by name, once: random parameters, the compiled states of windows and of left-padded contexts."""
    built = {}

    def build(name):
        if name not in built:
            _, encoder = make(name)
            encode = reading(encoder).encode
            params = random_params(encoder)
            built[name] = SimpleNamespace(
                name=name,
                encoder=encoder,
                params=params,
                table_ID=np.asarray(encoder.table(params)),
                states=jax.jit(jax.vmap(encoder.states, (None, 0))),
                encode=jax.jit(jax.vmap(encode, (None, 0, 0))),
            )
        return built[name]

    return build


def gru_twin(torch, model):
    params = jax.tree.map(torch.tensor, model.params)
    net, items = params["network"], params["items"]
    twin = torch.nn.GRU(DIM, DIM, batch_first=True, dtype=torch.float64)
    twin.weight_ih_l0.copy_(net["input"].T)
    twin.weight_hh_l0.copy_(net["state"].T)
    twin.bias_ih_l0.copy_(net["input_bias"])
    twin.bias_hh_l0.copy_(net["state_bias"])
    return lambda item_BL: twin(items["in"][item_BL])[0] @ items["out"].T


def sasrec_twin(torch, model):
    """Of PyTorch's own layers, in the order in which Kang and McAuley's code has them."""
    params, kind = jax.tree.map(torch.tensor, model.params), {"dtype": torch.float64}
    net, vectors_ID = params["network"], params["items"]["in"]
    heads = SHAPES[model.name]["heads"]

    def norm(given):
        layer = torch.nn.LayerNorm(DIM, eps=1e-8, **kind)
        layer.weight.copy_(given["scale"])
        layer.bias.copy_(given["bias"])
        return layer

    def dense(given):
        layer = torch.nn.Linear(DIM, DIM, **kind)
        layer.weight.copy_(given["w"].T)
        layer.bias.copy_(given["b"])
        return layer

    def attention(block):
        layer = torch.nn.MultiheadAttention(DIM, heads, batch_first=True, **kind)
        parts = [block[name] for name in ("query", "key", "value")]
        layer.in_proj_weight.copy_(torch.cat([part["w"].T for part in parts]))
        layer.in_proj_bias.copy_(torch.cat([part["b"] for part in parts]))
        layer.out_proj.weight.copy_(block["out"]["w"].T)
        layer.out_proj.bias.copy_(block["out"]["b"])
        return layer

    blocks = [
        (
            norm(block["attention_norm"]),
            attention(block),
            norm(block["feed_norm"]),
            torch.nn.Sequential(dense(block["wide"]), torch.nn.ReLU(), dense(block["narrow"])),
        )
        for block in net["blocks"]
    ]
    last = norm(net["norm"])

    def scores(item_BL):
        length = item_BL.shape[1]
        later_LL = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = vectors_ID[item_BL] * DIM**0.5 + net["positions"][:length]
        for before, attend, between, feed in blocks:
            q = before(x)
            x = between(q + attend(q, x, x, attn_mask=later_LL, need_weights=False)[0])
            x = x + feed(x)
        return last(x) @ vectors_ID.T

    return scores


@pytest.mark.parametrize("name", ["gru4rec", *SHAPES])
def test_scores_equal_a_twin_in_pytorch(models, name):
    """At every position; the twin is also given the first events alone."""
    torch = pytest.importorskip(
        "torch", reason="PyTorch is not installed (the extra named `reference`)"
    )
    model = models(name)
    score_BLI = model.states(model.params, WINDOW_BL) @ model.table_ID.T
    with torch.no_grad():
        twin = (gru_twin if name == "gru4rec" else sasrec_twin)(torch, model)
        for length in (1, 2, 5, LENGTH):
            wanted = twin(torch.tensor(WINDOW_BL[:, :length])).numpy()
            np.testing.assert_allclose(score_BLI[:, :length], wanted, rtol=1e-9, atol=1e-10)
    assert np.ptp(wanted, axis=(0, 1)).min() > 0.01  # agreement on a constant would show nothing


@pytest.mark.parametrize("name", BOTH)
def test_a_position_sees_itself_and_what_came_before(models, name):
    model = models(name)
    state_BLD = np.asarray(model.states(model.params, WINDOW_BL))
    moved_BL = np.abs(state_BLD[1:] - state_BLD[:1]).max(axis=2)
    seen_BL = np.tri(LENGTH, dtype=bool).T  # line: the place changed, column: the position
    assert moved_BL[~seen_BL].max() < 1e-12
    assert moved_BL[seen_BL].min() > 1e-4


@pytest.mark.parametrize("name", BOTH)
def test_a_left_padded_history_is_read_to_its_end(models, name):
    """As in a longer window, whatever the padding holds; of no events, zeros."""
    model = models(name)
    length_B = np.arange(LENGTH + 1, dtype=np.int32)
    read = []
    for padding in (0, 5):
        context_BL = np.full((LENGTH + 1, LENGTH), padding, np.int32)
        for length in length_B[1:]:
            context_BL[length, LENGTH - length :] = HISTORY[:length]
        read.append(np.asarray(model.encode(model.params, context_BL, length_B)))
    assert read[0].tobytes() == read[1].tobytes()
    assert not read[0][0].any()
    state_LD = model.states(model.params, WINDOW_BL)[0]
    np.testing.assert_allclose(read[0][1:], state_LD, rtol=1e-9, atol=1e-12)


COUNT_R = np.array([3, 1, 2, 5, 12, 4])
WIDE, DRAWS = 4, 4000


@pytest.fixture(scope="module")
def windows():
    """Draws windows of a share that starts early; an event's item is its place in the log, behind which -1 lies in wait."""
    offset_R1 = np.concatenate([[0], np.cumsum(COUNT_R)])
    histories = make_histories(offset_R1, np.arange(offset_R1[-1]))
    histories = histories._replace(item_F=np.append(histories.item_F, [-1, -1]).astype(np.int32))
    histories = jax.tree.map(jnp.asarray, histories)
    draw = jax.jit(lambda early: draw_windows(jax.random.key(1), histories, WIDE, early, DRAWS))

    def drawn(early):
        item_BL, target_BL, real_BL, user_B = map(np.asarray, draw(early))
        start_B1 = offset_R1[user_B][:, None]
        return item_BL - start_B1, target_BL - start_B1, real_BL, user_B

    return drawn


@pytest.mark.parametrize("early", [0.0, 0.5, 1.0])
def test_windows_are_runs_of_events_of_one_user(windows, early):
    """Places count from the user's first event."""
    place_BL, next_BL, real_BL, user_B = windows(early)
    last_B1 = COUNT_R[user_B][:, None] - 1
    run_BL = place_BL[:, :1] + np.arange(WIDE)
    np.testing.assert_array_equal(real_BL, run_BL < last_B1)
    np.testing.assert_array_equal(place_BL[real_BL], run_BL[real_BL])
    np.testing.assert_array_equal(next_BL[real_BL], run_BL[real_BL] + 1)
    for place in (place_BL, next_BL):  # also where nothing is real
        assert (place >= 0).all() and (place <= last_B1).all()
    room_B = np.maximum(last_B1[:, 0] - WIDE, 0)
    assert (place_BL[:, 0] <= room_B).all()
    # Of the long history every start is as likely as another, but for those put first.
    first = place_BL[user_B == COUNT_R.argmax(), 0]
    starts = COUNT_R.max() - WIDE
    wanted = np.full(starts, (1 - early) / starts) + early * np.eye(starts)[0]
    found = np.bincount(first, minlength=starts) / first.size
    deviation = np.sqrt(wanted * (1 - wanted) / first.size)
    assert (np.abs(found - wanted) <= 5 * deviation).all()


def test_users_are_drawn_in_proportion_to_their_targets(windows):
    user_B = windows(0.0)[3]
    share_R = (COUNT_R - 1) / (COUNT_R - 1).sum()
    found_R = np.bincount(user_B, minlength=COUNT_R.size) / DRAWS
    assert (np.abs(found_R - share_R) <= 5 * np.sqrt(share_R * (1 - share_R) / DRAWS)).all()


ITEM_BL = np.arange(12).reshape(3, 4)  # every position's state is a parameter of its own
TARGET_BL = np.array([[1, 4, 0, 2], [8, 8, 3, 3], [5, 6, 7, 0]])
REAL_BL = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], bool)
NEGATIVE_BN = np.array([[3, 5, 5], [0, 1, 2], [2, 8, 4]])
FREE = CausalEncoder(
    init=lambda key, items: {},
    states=lambda params, item_L, key=None: dropped(key, 0.5, params["network"][item_L]),
    table=lambda params: params["items"],
)


@pytest.fixture(scope="module")
def free_params():
    generator = np.random.default_rng(2)
    return {
        "items": generator.standard_normal((ITEMS, DIM)),
        "network": generator.standard_normal((ITEM_BL.size, DIM)),
    }


def negatives_of(own):
    return None if own.loss == "softmax" else NEGATIVE_BN


def free_loss(own, params, key=None):
    return position_loss(FREE, own, params, ITEM_BL, TARGET_BL, REAL_BL, negatives_of(own), key)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loss_of_scores(own, score_I, target, negative_N):
    """Of one position, as the papers have it."""
    positive, score_N = score_I[target], score_I[negative_N]
    if own.loss == "softmax":
        return -np.log(np.exp(positive) / np.exp(score_I).sum())
    if own.loss == "bpr":
        return -np.mean([np.log(sigmoid(positive - one)) for one in score_N])
    share, t = len(score_N) / (ITEMS - 1), own.calibration
    beta = share * (t * (1 - 1 / share) + 1 / share)
    total = -beta * np.log(sigmoid(positive)) - sum(np.log(1 - sigmoid(one)) for one in score_N)
    return total / (1 + len(score_N))


@pytest.mark.parametrize("kind", ["softmax", "gbce", "bpr"])
def test_the_loss_is_a_mean_over_real_positions(free_params, kind):
    """The negatives of a window serve all its positions; the others have no gradient."""
    own = CausalConfig(loss=kind, calibration=0.6)
    value, gradient = jax.jit(jax.value_and_grad(lambda params: free_loss(own, params)))(
        free_params
    )
    each = []
    for b, position in np.argwhere(REAL_BL):
        score_I = free_params["items"] @ free_params["network"][ITEM_BL[b, position]]
        each.append(loss_of_scores(own, score_I, TARGET_BL[b, position], NEGATIVE_BN[b]))
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-12)
    moved_BL = np.abs(gradient["network"]).max(axis=1)[ITEM_BL]
    np.testing.assert_array_equal(moved_BL > 0, REAL_BL)
    assert moved_BL[REAL_BL].min() > 1e-3


@pytest.mark.parametrize(("name", "kind"), [("gru4rec", "gbce"), ("sasrec-1-2", "softmax")])
def test_an_update_lowers_the_loss(name, kind):
    """Every parameter has a part in it but the keys' bias, a common shift of what is normalised."""
    own, encoder = make(name, loss=kind)
    params, optimizer = random_params(encoder), optax.adam(0.01)

    @jax.jit
    def update(params):
        value, gradient = jax.value_and_grad(
            lambda params: position_loss(
                encoder, own, params, ITEM_BL % ITEMS, TARGET_BL, REAL_BL, negatives_of(own)
            )
        )(params)
        change, _ = optimizer.update(gradient, optimizer.init(params))
        return value, gradient, optax.apply_updates(params, change)

    before, gradient, params = update(params)
    after, *_ = update(params)
    assert before - after > 1e-3
    steepness = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.abs(leaf).max()
        for path, leaf in jax.tree.leaves_with_path(gradient)
    }
    idle = [path for path, most in steepness.items() if most < 1e-6]
    assert idle == (["network.blocks.0.key.b"] if name != "gru4rec" else [])


@pytest.mark.parametrize("name", ["gru4rec", "sasrec-1-2"])
def test_dropout_needs_a_key(models, name):
    """Off without one, and at rate 0; with one, the key decides."""
    model, (_, idle) = models(name), make(name, dropout=0.0)

    @jax.jit
    def drawn(params, key_B):
        states = jax.vmap(model.encoder.states, (None, None, 0))(params, np.array(HISTORY), key_B)
        return states, idle.states(params, np.array(HISTORY), key_B[0])

    key_B = jax.random.split(jax.random.key(0), 2)
    drawn_BLD, off_LD = drawn(model.params, key_B)
    plain_LD = model.states(model.params, WINDOW_BL)[0]
    np.testing.assert_allclose(off_LD, plain_LD, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(drawn_BLD, drawn(model.params, key_B)[0])
    for one, other in ((plain_LD, drawn_BLD[0]), (drawn_BLD[0], drawn_BLD[1])):
        assert not np.allclose(one, other, atol=1e-3)


def test_every_window_has_its_own_dropout(free_params):
    """A position's gradient is zero where its state was dropped."""
    own = CausalConfig(loss="softmax")
    gradient = jax.jit(jax.grad(lambda params: free_loss(own, params, jax.random.key(0))))
    kept_BLD = np.asarray(gradient(free_params)["network"])[ITEM_BL] != 0
    both_L = REAL_BL[0] & REAL_BL[1]
    assert (kept_BLD[0] != kept_BLD[1])[both_L].any()
    assert 0.2 < kept_BLD[REAL_BL].mean() < 0.8


def test_what_dropout_keeps_is_scaled_up():
    x = np.asarray(dropped(jax.random.key(0), 0.2, jnp.ones(1000)))
    np.testing.assert_allclose(np.unique(x), [0, 1 / 0.8])
    assert abs(x.mean() - 1) < 0.08  # five standard deviations


@pytest.mark.parametrize(("name", "kind"), [("gru4rec", "softmax"), ("sasrec-1-2", "gbce")])
def test_fine_tuning_is_a_step_on_the_support(models, name, kind):
    """theta - rate * gradient for everything but the item vectors; who has no support stays where he is."""
    model = models(name)
    own, encoder = make(name, loss=kind)
    histories, places = [HISTORY[:1], [5, 0, 2, 3, 1]], [1, 2, 3, 4]
    batch = case_batch(np.array([0, 1, 6]), np.concatenate(histories), LENGTH, max_support=5)
    score, vectors_ID = make_score(reading(encoder), own, ITEMS, seed=7), model.table_ID
    items, history_L = model.params["items"], np.array(histories[1])

    def support_loss(network, negative_KN):
        state_LD = encoder.states({"items": items, "network": network}, history_L)
        each = [
            loss_in_jax(own, vectors_ID @ state_LD[place - 1], history_L[place], negative_N)
            for place, negative_N in zip(places, negative_KN, strict=True)
        ]
        return sum(each) / len(places)

    @jax.jit
    def run(params):
        negative_BSM = served_negatives(batch, 7, ITEMS, 1, 5 * own.negatives)
        negative_KN = negative_BSM[1].reshape(5, own.negatives)[1:]  # before them is no sample
        gradient = jax.grad(support_loss)(params["network"], negative_KN)
        network = jax.tree.map(lambda p, g: p - own.adapt_rate * g, params["network"], gradient)
        state_LD = encoder.states({"items": items, "network": network}, history_L)
        return *(score(params, batch, steps) for steps in (0, 1)), vectors_ID @ state_LD[-1]

    before_BI, after_BI, wanted_I = map(np.asarray, run(model.params))
    context_BL = np.resize(histories[1], WINDOW_BL.shape).astype(np.int32)
    context_BL[0], context_BL[1, :5] = HISTORY, histories[1]
    state_BLD = model.states(model.params, context_BL)
    read_BD = np.stack([state_BLD[0, 0], state_BLD[1, 4]])
    np.testing.assert_allclose(before_BI, read_BD @ vectors_ID.T, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(after_BI[0], before_BI[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(after_BI[1], wanted_I, rtol=1e-9, atol=1e-10)
    assert np.isfinite(after_BI).all() and np.abs(after_BI[1] - before_BI[1]).max() > 1e-2


def loss_in_jax(own, score_I, target, negative_N):
    """`loss_of_scores`, to be differentiated."""
    if own.loss == "softmax":
        return -jax.nn.log_softmax(score_I)[target]
    beta = 1 - own.calibration * (1 - len(negative_N) / (ITEMS - 1))
    right = beta * jax.nn.log_sigmoid(score_I[target])
    return -(right + jax.nn.log_sigmoid(-score_I[negative_N]).sum()) / (1 + len(negative_N))


@pytest.mark.parametrize("name", ["gru4rec", "sasrec"])
def test_what_is_served_must_fit_what_was_trained(name):
    config = settings.replace(
        Config(), {"train.model": name, "model.max_length": 7, f"{name}.window": 6}
    )
    with pytest.raises(ConfigError, match=r"max_length=7: .* 6"):
        MODELS[name](None, config)


def test_an_epoch_sees_as_many_targets_as_there_are():
    """Short histories do not fill their windows: counted as full they would be visited a fraction of an epoch."""
    count_R = np.array([3, 5, 40, 2, 9])
    offset_R1 = np.concatenate([[0], np.cumsum(count_R)])
    histories = make_histories(offset_R1, np.arange(offset_R1[-1], dtype=np.int32))
    window, batch = 10, 6
    total, held = causal.targets_per_window(histories, window, batch)
    assert total == np.sum(count_R - 1)
    real = causal.draw_windows(jax.random.key(0), histories, window, 0.3, 20_000)[2]
    assert held == pytest.approx(batch * np.asarray(real).sum(1).mean(), rel=0.02)
