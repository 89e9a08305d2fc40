"""SML against float64 re-computations with loops, Adam by hand and gradients by central differences.

Dimension key: R regular users, I items, D = dim, C channels, H hidden, E events, B rows, L support, S steps.
"""

import copy
import dataclasses
import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny  # noqa: F401 (its settings of the compiler)

from metacsr_jax.baselines.sml import final_period, init_transfer, sml, transfer, triple_loss
from metacsr_jax.baselines.training import served_negatives
from metacsr_jax.cases import case_batch
from metacsr_jax.config import Config, ProtocolConfig, SMLConfig
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import NEW, REGULAR, Protocol

DIM, ITEMS = 2, 9
OWN = SMLConfig(
    periods=4,
    repeats=2,
    channels=3,
    channels_out=2,
    hidden=3,
    table_rate=0.05,
    table_batch=2,
    table_decay=0.02,
    transfer_rate=0.03,
    transfer_batch=3,
    transfer_decay=0.1,
)
# (user, item) in order of time; a regular user's last event is held out and is not here. Two more events than four periods of
# five; user 2's come first and user 0's last, so that neither the order of users nor that within users is that of time.
EVENTS = [
    *[
        (2, 3),
        (2, 0),
        (1, 4),
        (2, 5),
        (1, 4),
        (3, 1),
        (1, 6),
        (2, 1),
        (3, 2),
        (1, 7),
        (3, 0),
        (1, 5),
    ],
    *[(3, 6), (0, 2), (3, 7), (0, 0), (2, 4), (0, 3), (0, 7), (1, 0), (0, 6), (0, 1)],
]
REGULARS, PERIOD, EARLY = 4, 5, 12  # EARLY events pre-train


# --- the reference: nested dicts of float64 ---


def gelu(x):
    return x * reference.sigmoid(1.702 * x)


def moved_row(theta, last_D, hat_D, product_hat_D=None):
    """f(last, hat) of one row; in the product, hat is a constant of its own."""
    if product_hat_D is None:
        product_hat_D = hat_D
    norm = math.sqrt(sum(value**2 for value in last_D)) + 1e-8
    planes = [[], [], []]
    for last, hat, constant in zip(last_D, hat_D, product_hat_D, strict=True):
        planes[0].append(last)
        planes[1].append(hat)
        planes[2].append(last * constant / norm)
    for name in ("conv_1", "conv_2"):
        kernel_CC, bias_C = theta[name]["kernel"], theta[name]["bias"]
        planes = [
            [
                gelu(sum(kernel_CC[c, f] * planes[c][d] for c in range(len(planes))) + bias_C[f])
                for d in range(len(last_D))
            ]
            for f in range(len(bias_C))
        ]
    flat = np.array([value for plane in planes for value in plane])  # channel by channel
    hidden_H = gelu(reference.dense(theta["fc_1"], flat))
    return reference.dense(theta["fc_2"], hidden_H)


def softplus(x):
    return np.logaddexp(0.0, x)


def batch_loss(theta, last, hat, decay, triples, frozen=None):
    """Mean over (user, item, negative) of cross-entropy and decay; theta None: of the rows themselves."""
    frozen, total = hat if frozen is None else frozen, 0.0

    def row(side, n):
        if theta is None:
            return hat[side][n]
        return moved_row(theta[side], last[side][n], hat[side][n], frozen[side][n])

    for user, item, negative in triples:
        p_D, q_D, n_D = row("user", user), row("item", item), row("item", negative)
        total += softplus(-(p_D @ q_D)) + softplus(p_D @ n_D)
        for vector_D in (hat["user"][user], hat["item"][item], hat["item"][negative]):
            total += decay * 0.5 * sum(value**2 for value in vector_D)
    return total / len(triples) if triples else 0.0


def leaves(tree):
    return jax.tree.leaves(tree)


def slopes(function, tree, step=1e-5):
    """The gradient of a function of a tree by central differences."""
    tree = copy.deepcopy(tree)
    gradient = jax.tree.map(np.zeros_like, tree)
    for leaf, out in zip(leaves(tree), leaves(gradient), strict=True):
        for at in np.ndindex(leaf.shape):
            kept, side = leaf[at], {}
            for sign in (1, -1):
                leaf[at] = kept + sign * step  # in place: the function reads the same tree
                side[sign] = function(tree)
            leaf[at] = kept
            out[at] = (side[1] - side[-1]) / (2 * step)
    return gradient


class Adam:
    """Adam as printed; `decay` adds its share of the variables to the gradient."""

    def __init__(self, variables, rate, decay=0.0):
        self.rate, self.decay, self.time = rate, decay, 0
        self.first, self.second = (jax.tree.map(np.zeros_like, variables) for _ in range(2))

    def step(self, variables, gradient):
        """The variables after one update."""
        self.time += 1
        gradient = jax.tree.map(lambda g, x: g + self.decay * x, gradient, variables)
        self.first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.first, gradient)
        self.second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.second, gradient)

        def moved(x, m, v):
            m, v = m / (1 - 0.9**self.time), v / (1 - 0.999**self.time)
            return x - self.rate * m / (np.sqrt(v) + 1e-8)

        return jax.tree.map(moved, variables, self.first, self.second)


def moved_tables(theta, last, hat):
    """f(last, hat) of every row."""
    return {
        side: np.array(
            [moved_row(theta[side], *pair) for pair in zip(last[side], hat[side], strict=True)]
        )
        for side in ("user", "item")
    }


def served_scores(own, params, start_D, samples_of_steps, steps):
    """Scores of all items after a period of one user: `samples_of_steps[s]` are the (item, negative) of step s."""
    theta = params["theta"]
    last = {"user": np.array([start_D]), "item": params["tables"]["item"]}
    hat = copy.deepcopy(last)
    optimizer = Adam(hat, own.table_rate)
    for step in range(steps):
        triples = [(0, *pair) for pair in samples_of_steps[step]]

        def loss(moving, triples=triples, frozen=hat):
            return batch_loss(theta, last, moving, own.table_decay, triples, frozen)

        hat = optimizer.step(hat, slopes(loss, hat))
    moved = moved_tables(theta, last, hat)
    return moved["item"] @ moved["user"][0]


# --- parameters ---


def random_tables(generator, users=REGULARS, scale=0.7):
    return {
        "user": scale * generator.standard_normal((users, DIM)),
        "item": scale * generator.standard_normal((ITEMS, DIM)),
    }


def random_theta(generator, dim=DIM, own=OWN):
    shapes = jax.eval_shape(lambda key: init_transfer(key, dim, own), jax.random.key(0))
    return jax.tree.map(lambda leaf: 0.8 * generator.standard_normal(leaf.shape), shapes)


def random_params(seed):
    generator = np.random.default_rng(seed)
    return {
        "tables": random_tables(generator),
        "last": random_tables(generator),
        "hat": random_tables(generator),
        "theta": {side: random_theta(generator) for side in ("user", "item")},
    }


def assert_close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    tolerance = {"rtol": 1e-6, "atol": 1e-8} | tolerance
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


# --- transfer and loss ---

jitted_transfer = jax.jit(transfer)


def test_transfer_of_every_row():
    """Three channels of length D, two convolutions of width one, then channel by channel into two dense layers."""
    own, generator = SMLConfig(hidden=7), np.random.default_rng(0)
    theta = random_theta(generator, dim=4, own=own)
    assert [theta[name]["kernel"].shape for name in ("conv_1", "conv_2", "fc_1", "fc_2")] == [
        *[(3, 10), (10, 5), (20, 7), (7, 4)]
    ]
    last_BD, hat_BD = generator.standard_normal((2, 5, 4))
    last_BD[1] = 0.0
    last_BD[2] = [1e-8, 0.0, 0.0, 0.0]  # the norm is doubled by what is added to it
    with jax.enable_x64(True):
        moved_BD = jitted_transfer(theta, last_BD, hat_BD)
    pairs = zip(last_BD, hat_BD, strict=True)
    expected = [moved_row(theta, *pair) for pair in pairs]
    np.testing.assert_allclose(moved_BD, expected, rtol=1e-9)
    assert np.ptp(expected, axis=0).min() > 0.1
    halved = [1e-8, 0, 0, 0], [2.0, 0, 0, 0], [0.0, 0, 0, 0]
    apart = moved_row(theta, *map(np.array, halved)) - moved_row(theta, *map(np.array, halved[:2]))
    assert np.abs(apart).max() > 1e-3  # the third channel of that row is 1, and it shows


def test_hat_is_a_constant_in_the_product():
    generator = np.random.default_rng(1)
    theta, (last_D, hat_D, weight_D) = random_theta(generator), generator.standard_normal((3, DIM))

    def value(moving, frozen):
        return weight_D @ moved_row(theta, last_D, moving, frozen)

    with jax.enable_x64(True):
        gradient = jax.jit(
            jax.grad(lambda hat_D: weight_D @ transfer(theta, last_D[None], hat_D[None])[0])
        )(hat_D)
        gradient = np.asarray(gradient)
    np.testing.assert_allclose(gradient, slopes(lambda x: value(x, hat_D), hat_D), rtol=1e-7)
    through = slopes(lambda x: value(x, x), hat_D)
    assert np.abs(gradient - through).max() > 1e-2


@pytest.mark.parametrize("moved", [True, False], ids=["transferred", "factorisation"])
def test_loss_of_a_batch(moved):
    """One positive and one negative of each user, the decay of the rows of a batch per triple."""
    params = random_params(2)
    theta, last, hat = (params[name] for name in ("theta", "last", "hat"))
    triples = [(0, 1, 2), (3, 1, 8), (0, 4, 1)]
    user_B, item_B, negative_B = map(list, zip(*triples, strict=True))

    def rows(tables):
        return {"user": tables["user"][user_B], "item": tables["item"][item_B + negative_B]}

    with jax.enable_x64(True):
        value = jax.jit(triple_loss)(theta if moved else None, rows(last), rows(hat), 0.3)
    expected = batch_loss(theta if moved else None, last, hat, 0.3, triples)
    assert value == pytest.approx(expected, rel=1e-10)
    assert expected - batch_loss(theta if moved else None, last, hat, 0.0, triples) > 0.1


# --- the final period ---


@partial(jax.jit, static_argnums=0)
def finish(own, params, start_D, item_L, real_L, negative_SL):
    item_ID = params["tables"]["item"]
    still_ID = transfer(params["theta"]["item"], item_ID, item_ID)
    return final_period(own, params, still_ID, start_D, item_L, real_L, negative_SL)


class Served(NamedTuple):
    """A support with padding on the left, and negatives of two steps."""

    item_L: list[int]
    real_L: list[bool]
    negative_SL: list[list[int]]

    def samples(self):
        """Of each step, the real (item, negative)."""
        return [
            [pair[:2] for pair in zip(self.item_L, row, self.real_L, strict=True) if pair[2]]
            for row in self.negative_SL
        ]


SERVED = {
    "distinct": Served([0, 3, 5], [False, True, True], [[8, 6, 7], [6, 1, 2]]),
    # 3 twice in the support, 7 drawn twice in a step and again in the next, 0 padding and yet a negative.
    "repeated": Served([0, 3, 3], [False, True, True], [[2, 7, 7], [4, 0, 7]]),
    # What is masked is real elsewhere; 5 is support and negative at once.
    "overlapping": Served([3, 5, 3], [False, True, True], [[5, 5, 1], [3, 8, 5]]),
    "nothing": Served([0, 0, 0], [False, False, False], [[1, 2, 3], [4, 5, 6]]),
}


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_scores_after_the_final_period(steps):
    """Adam on the rows of the user and of what was drawn, theta and `last` fixed; then one transfer of everything."""
    params = random_params(3)
    start_D = np.array([0.9, -0.4])
    before = served_scores(OWN, params, start_D, [], 0)
    for name, served in SERVED.items():
        arrays = np.int32(served.item_L), np.array(served.real_L), np.int32(served.negative_SL)
        with jax.enable_x64(True):
            score_I = finish(OWN, params, start_D, *arrays[:2], arrays[2][:steps])
        expected = served_scores(OWN, params, start_D, served.samples(), steps)
        np.testing.assert_allclose(score_I, expected, rtol=1e-6, atol=1e-8, err_msg=name)
        assert (np.abs(expected - before).max() > 1e-3) == (steps > 0 and name != "nothing")


def test_order_and_padding_of_the_support_do_not_matter_at_serving():
    """Pairs of item and negative in any order; further padding in front, whatever it holds."""
    params, start_D = random_params(4), np.array([0.3, 0.8])
    item_L, negative_SL = np.int32([3, 5, 1]), np.int32([[8, 5, 7], [6, 2, 3]])
    with jax.enable_x64(True):
        score_I = finish(OWN, params, start_D, item_L, np.ones(3, bool), negative_SL)
        turned = finish(OWN, params, start_D, item_L[::-1], np.ones(3, bool), negative_SL[:, ::-1])
        padded = finish(
            OWN,
            params,
            start_D,
            np.int32([4, 3, 5, 1]),
            np.array([False, True, True, True]),
            np.concatenate([np.int32([[3], [0]]), negative_SL], axis=1),
        )
    np.testing.assert_allclose(turned, score_I, rtol=1e-9)
    np.testing.assert_allclose(padded, score_I, rtol=1e-9)


# --- training ---


def protocol() -> Protocol:
    """EVENTS, the held-out events of the regular users after all of them, and a new user before."""
    held_out = [(user, 8) for user in range(REGULARS)]
    newcomer = [(REGULARS, 2), (REGULARS, 5), (REGULARS, 8)]
    log = [(user, time, item) for time, (user, item) in enumerate(newcomer + EVENTS + held_out)]
    log.sort()
    count_U = np.bincount([user for user, _, _ in log])
    return Protocol(
        config=ProtocolConfig(),
        name="by hand",
        item_ids=np.arange(ITEMS),
        user_ids=np.arange(REGULARS + 1),
        role_U=np.array([REGULAR] * REGULARS + [NEW], np.uint8),
        offset_U1=np.concatenate([[0], np.cumsum(count_U)]),
        item_E=np.array([item for _, _, item in log], np.int32),
        time_E=np.array([time for _, time, _ in log], np.int64),
        negative_NC={},
        mask_seen=True,
        item_features=None,
        user_features=None,
        manifest={},
    )


def model_of(**changes):
    own = dataclasses.replace(OWN, **changes)
    config = Config()
    config = dataclasses.replace(
        config,
        sml=own,
        model=dataclasses.replace(config.model, dim=DIM, max_length=3),
        train=dataclasses.replace(config.train, pretrain_steps=1, steps=4, chunk=1),
    )
    return sml(protocol(), config), config


@partial(jax.jit, static_argnums=(2, 3))
def pass_draws(key, known, size, batch, event_E2):
    """Order and negatives of one pass over given events: triples [batches, batch, 3]."""
    order_key, negative_key = jax.random.split(key)
    count = size // batch
    place_E = jax.random.permutation(order_key, size)[: count * batch]
    event_TB2 = event_E2[place_E].reshape(count, batch, 2)
    negative_TB1 = jax.vmap(lambda key, user_B: draw_negatives(key, known, user_B, ITEMS, 1))(
        jax.random.split(negative_key, count), event_TB2[..., 0]
    )
    return jnp.concatenate([event_TB2, negative_TB1], axis=-1)


def drawn(key, known, events, batch):
    """Batches of triples of one pass over events."""
    triple_TB3 = pass_draws(key, known, len(events), batch, np.int32(events))
    batches = [[tuple(map(int, triple)) for triple in one] for one in np.asarray(triple_TB3)]
    for user, item, negative in (triple for one in batches for triple in one):
        assert (user, item) in events and (user, negative) not in EVENTS
    return batches


@pytest.fixture(scope="module")
def trained():
    """(states after every step, starting with the initial one; the same by loops; mean losses of both)."""
    seed_key = jax.random.key(7)
    with jax.enable_x64(True):
        model, _ = model_of()
        state = jax.jit(model.init)(jax.random.key(0))
        state = state._replace(params=jax.tree.map(jnp.asarray, random_params(5)))
        known, states, losses = model.data["histories"].known, [jax.device_get(state)], []
        for step in range(5):
            state, report = model.phases[step > 0].chunk(state, model.data, seed_key)
            states.append(jax.device_get(state))
            losses.append(float(report.loss[0]))

        params, expected, expected_losses = random_params(5), [], []
        table_adam = Adam(params["tables"], OWN.table_rate)
        theta_adam = Adam(params["theta"], OWN.transfer_rate, OWN.transfer_decay)
        expected.append(params)
        for step in range(5):
            key = jax.random.fold_in(seed_key, step)
            if step == 0:
                params, loss = factorised(params, table_adam, key, known)
            else:
                t, repeat = divmod(step - 1, OWN.repeats)
                params, loss = round_of(params, table_adam, theta_adam, key, known, t, repeat)
            expected.append(params)
            expected_losses.append(loss)
    return states, expected, losses, expected_losses


def factorised(params, adam, key, known):
    """One epoch of matrix factorisation on the events before the periods."""
    tables, values = params["tables"], []
    for triples in drawn(key, known, EVENTS[:EARLY], OWN.table_batch):

        def loss(tables, triples=triples):
            return batch_loss(None, None, tables, OWN.table_decay, triples)

        values.append(loss(tables))
        tables = adam.step(tables, slopes(loss, tables))
    return {**params, "tables": tables}, np.mean(values)


def round_of(params, table_adam, theta_adam, key, known, t, repeat):
    """(a), (b), (d), and (3) where the period ends."""
    key_a, key_d = jax.random.split(key)
    theta = params["theta"]
    last = params["tables"] if repeat == 0 else params["last"]
    start = EARLY + t * PERIOD
    hat = params["tables"]
    for triples in drawn(key_a, known, EVENTS[start : start + PERIOD], OWN.table_batch):

        def table_loss(moving, triples=triples, frozen=hat):
            return batch_loss(theta, last, moving, OWN.table_decay, triples, frozen)

        hat = table_adam.step(hat, slopes(table_loss, hat))
    following, new_theta, values = EVENTS[start + PERIOD :], theta, []
    if following:
        for triples in drawn(key_d, known, following, OWN.transfer_batch):

            def theta_loss(theta, triples=triples):
                return batch_loss(theta, last, hat, 0.0, triples)

            values.append(theta_loss(new_theta))
            new_theta = theta_adam.step(new_theta, slopes(theta_loss, new_theta))
    tables = moved_tables(new_theta if repeat == OWN.repeats - 1 else theta, last, hat)
    params = {"tables": tables, "last": last, "hat": hat, "theta": new_theta}
    return params, np.mean(values) if values else 0.0


STEPS = ["factorisation", "first_period", "first_period_again", "last_period", "last_period_again"]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5], ids=STEPS)
def test_state_after_a_step(trained, step):
    """Tables, `last`, `hat` and theta, with Adam's memory carried on from step to step."""
    states, expected, losses, expected_losses = trained
    assert states[step].step == step
    assert_close(states[step].params, expected[step])
    assert losses[step - 1] == pytest.approx(expected_losses[step - 1], rel=1e-7, abs=1e-12)


def test_which_part_of_a_round_changes_what(trained):
    states = [state.params for state in trained[0]]

    def same(one, other, *names):
        pairs = zip(leaves([one[n] for n in names]), leaves([other[n] for n in names]), strict=True)
        return [(a == b).all() for a, b in pairs]

    factorised, first, second, third, fourth = states[1:]
    assert all(same(states[0], factorised, "last", "hat", "theta"))
    assert not any(same(states[0], factorised, "tables"))
    # (a) and (b) move the tables whether or not theta learns; the last period leaves theta as it is.
    for before, after in itertools.pairwise(states[1:]):
        assert not any(same(before, after, "tables", "hat"))
    assert not any(same(factorised, first, "theta")) and not any(same(first, second, "theta"))
    assert all(same(second, third, "theta")) and all(same(third, fourth, "theta"))
    # `last` is what the tables were before the first round of a period.
    for before, *rounds in [(factorised, first, second), (second, third, fourth)]:
        for after in rounds:
            for side in ("user", "item"):
                np.testing.assert_array_equal(after["last"][side], before["tables"][side])


def test_periods_are_cut_by_time():
    """Equally many events in each of the later periods; the remainder goes to the first ones."""
    with jax.enable_x64(True):
        model, _ = model_of()
    assert np.asarray(model.data["events"]).tolist() == [list(event) for event in EVENTS]
    pretrain, rounds, last = model.phases
    assert (pretrain.per_step, pretrain.steps, pretrain.final) == (EARLY, 1, False)
    assert (rounds.per_step, rounds.steps, rounds.final) == (2 * PERIOD, 3, False)
    assert (last.per_step, last.steps, last.final) == (2 * PERIOD, 1, True), "all periods count"


# --- serving ---

jitted_negatives = jax.jit(served_negatives, static_argnums=(1, 2, 3, 4))


@pytest.mark.parametrize("start", ["mean", "random"])
def test_served_scores(start):
    """A regular user starts from its own row, others from the mean or, alike for all, at random."""
    histories = [[3, 0], [6, 2, 6], [], [6, 2, 6]]
    batch = case_batch(
        np.cumsum([0, *map(len, histories)]),
        np.array([item for history in histories for item in history], np.int32),
        max_length=3,
        max_support=2,
        user_N=np.array([2, -1, -1, 1], np.int32),
    )
    params, steps_of = random_params(6), {"mean": (0, 2), "random": (0,)}
    with jax.enable_x64(True):
        model, config = model_of(start=start)
        seed = config.protocol.seed
        negative_BSL = np.asarray(jitted_negatives(batch, seed, ITEMS, 2, 3))
        served = model.bind(params)
        score_BI = {steps: np.asarray(served(batch, steps)) for steps in steps_of[start]}
        # Neither the order nor the company of the users matters.
        turned = jax.tree.map(lambda array: array[[3, 2, 1, 1]], batch)
        turned_BI = np.asarray(served(turned, steps_of[start][-1]))
        new_D = params["tables"]["user"].mean(axis=0)
        if start == "random":
            new_D = 0.01 * np.asarray(jax.random.normal(jax.random.key(seed), (DIM,)))
    for b, history in enumerate(histories):
        row = batch.user_B[b]
        start_D = new_D if row < 0 else params["tables"]["user"][row]
        samples = [
            list(zip(history, negative_L[3 - len(history) :].tolist(), strict=True))
            for negative_L in negative_BSL[b]
        ]
        assert not {n for pairs in samples for _, n in pairs} & set(history)
        for steps in score_BI:
            expected = served_scores(config.sml, params, start_D, samples, steps)
            np.testing.assert_allclose(score_BI[steps][b], expected, rtol=1e-6, atol=1e-8)
    last_BI = score_BI[steps_of[start][-1]]
    np.testing.assert_allclose(turned_BI, last_BI[[3, 2, 1, 1]], rtol=1e-12)
    assert np.abs(last_BI[3] - last_BI[1]).max() > 1e-3  # one history, two starts
