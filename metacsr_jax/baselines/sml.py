"""SML: how factors of one period become those of the next is learned (Zhang, Feng, Wang, He, Wang, Li, Zhang, SIGIR 2020).

Transfer of a row, users and items with a network each: x = [w_last, w_hat, w_last * stop(w_hat) / |w_last|] as 3 channels of length D;
convolution to 10 channels, GELU, to 5 channels, GELU, flatten, dense 512, GELU, dense D. GELU is x sigmoid(1.702 x). Score p . q.

Events are cut into periods of equal size by time. The first half pre-trains matrix factorisation. A round in period t is
  (a) tables: Adam through the transfer f(last, tables) with theta fixed, one pass over D_t, binary cross-entropy against one negative;
  (b) hat <- tables, tables <- f(last, hat), all rows;
  (d) theta: Adam with hat fixed, one pass over D_t+1 (the last period has none);
`sml.repeats` rounds per period; then tables <- f(last, hat) under the new theta, which are the next period's `last`.

Reading: the regular users' training events only. Serving is a final period with theta frozen: its data are the support, and it starts
from the mean of the regular rows (a regular user from its own). Each user has that period alone, so that nobody's scores depend on who
else is served, and S is the number of Adam steps in it, each on the whole support with fresh negatives; 0 applies the transfer alone.
Adam's moments of the tables carry over from pre-training to the rounds and from one to the next; the decay of theta is added to its
gradient. Rows that no step touched are alike for all and transferred once. A norm gets 1e-8 added; batches that do not fill are dropped.
The original has vectors of 64 (here `model.dim`) and 40 periods, of which 10 pre-train (here 10, half). Validation users choose S; the
model is the one after the last period, whatever they say of earlier rounds. The support is the latest `model.max_length` events.

Dimension key: R users, I items, D = dim, C channels, H hidden, E events of a period, B rows, L support, M touched items, S steps.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metacsr_jax import losses
from metacsr_jax.baselines.few_shot import apply_dense, dense
from metacsr_jax.baselines.training import device_histories, served_events, served_negatives
from metacsr_jax.config import Config, SMLConfig
from metacsr_jax.errors import ProtocolError
from metacsr_jax.model import Model, Phase
from metacsr_jax.negatives import draw_negatives
from metacsr_jax.protocol import Protocol, training_events
from metacsr_jax.step import StepReport, TrainState

Params = dict[str, Any]


def gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def init_transfer(key: jax.Array, dim: int, config: SMLConfig) -> Params:
    """A transfer network; the key is consumed."""
    first, second, third, fourth = jax.random.split(key, 4)
    return {
        "conv_1": dense(first, 3, config.channels),
        "conv_2": dense(second, config.channels, config.channels_out),
        "fc_1": dense(third, config.channels_out * dim, config.hidden),
        "fc_2": dense(fourth, config.hidden, dim),
    }


def transfer(theta: Params, last_BD: jax.Array, hat_BD: jax.Array) -> jax.Array:
    """f_theta(last, hat), row by row."""
    norm_B1 = jnp.linalg.norm(last_BD, axis=1, keepdims=True) + 1e-8
    product_BD = last_BD * jax.lax.stop_gradient(hat_BD) / norm_B1
    x_BDC = jnp.stack([last_BD, hat_BD, product_BD], axis=-1)
    x_BDC = gelu(apply_dense(theta["conv_1"], x_BDC))
    x_BDC = gelu(apply_dense(theta["conv_2"], x_BDC))
    flat = jnp.swapaxes(x_BDC, 1, 2).reshape(x_BDC.shape[0], -1)
    return apply_dense(theta["fc_2"], gelu(apply_dense(theta["fc_1"], flat)))


def transfer_tables(theta: Params, last: Params, hat: Params) -> Params:
    """All rows of both tables."""
    return {side: transfer(theta[side], last[side], hat[side]) for side in ("user", "item")}


def pair_loss(p_BD: jax.Array, q_BD: jax.Array, n_BD: jax.Array) -> jax.Array:
    """Binary cross-entropy of positives and as many negatives, a value per pair."""
    positive_B, negative_B = jnp.sum(p_BD * q_BD, axis=1), jnp.sum(p_BD * n_BD, axis=1)
    return jax.nn.softplus(-positive_B) + jax.nn.softplus(negative_B)


def rows(tables: Params, user_B: jax.Array, item_B: jax.Array, negative_B: jax.Array) -> Params:
    """The rows of a batch of triples, items and negatives in one."""
    return {
        "user": tables["user"][user_B],
        "item": tables["item"][jnp.concatenate([item_B, negative_B])],
    }


def triple_loss(theta: Params | None, last: Params, hat: Params, decay: float) -> jax.Array:
    """Mean loss of a batch's rows through the transfer (None: of the rows themselves), and the decay of `hat`."""
    moved = hat if theta is None else transfer_tables(theta, last, hat)
    count = hat["user"].shape[0]
    q_BD, n_BD = moved["item"][:count], moved["item"][count:]
    loss = jnp.mean(pair_loss(moved["user"], q_BD, n_BD))
    norms = sum(jnp.sum(table**2) for table in hat.values())
    return loss + decay * 0.5 * norms / count


def sml(protocol: Protocol, config: Config) -> Model:
    """SML on a protocol."""
    own, items, dim = config.sml, protocol.num_items, config.model.dim
    histories = device_histories(protocol)
    users = histories.count_R.shape[0]
    training = training_events(protocol)
    user_F = np.repeat(np.arange(users, dtype=np.int32), np.diff(training.offset_R1))
    order_F = np.argsort(training.time_F, kind="stable")
    event_F2 = jax.device_put(np.stack([user_F, training.item_F], axis=1)[order_F])
    period = user_F.size // own.periods
    if not period:
        raise ProtocolError(
            f"sml.periods={own.periods}: expected at most as many as training events, {user_F.size}"
        )
    early = own.periods // 2  # periods of pre-training; they take the remainder of the division too
    first = user_F.size - period * (own.periods - early)
    data = {"histories": histories, "events": event_F2}
    table_optimizer = optax.adam(own.table_rate)
    theta_optimizer = optax.chain(
        optax.add_decayed_weights(own.transfer_decay), optax.adam(own.transfer_rate)
    )

    def initial(key):
        user_key, item_key, *theta_keys = jax.random.split(key, 4)
        tables = {
            "user": 0.01 * jax.random.normal(user_key, (users, dim)),
            "item": 0.01 * jax.random.normal(item_key, (items, dim)),
        }
        theta = {
            side: init_transfer(one, dim, own)
            for side, one in zip(("user", "item"), theta_keys, strict=True)
        }
        # Copies, because the state is donated and a buffer may be given away only once.
        last, hat = (jax.tree.map(jnp.copy, tables) for _ in range(2))
        params = {"tables": tables, "last": last, "hat": hat, "theta": theta}
        opt_state = {
            "tables": table_optimizer.init(tables),
            "theta": theta_optimizer.init(theta),
        }
        return TrainState(params, opt_state, jnp.zeros((), jnp.int32))

    def pass_over(loss, optimizer, data, carry, start, size, batch, key):
        """One pass of Adam over `size` events from `start` in random order; loss of (variables, users, items, negatives)."""
        batch = min(batch, size)
        order_key, negative_key = jax.random.split(key)
        count = size // batch
        place_E = start + jax.random.permutation(order_key, size)[: count * batch]
        event_TB2 = data["events"][place_E].reshape(count, batch, 2)

        def update(carry, given):
            variables, opt_state = carry
            event_B2, key = given
            user_B, item_B = event_B2[:, 0], event_B2[:, 1]
            negative_B = draw_negatives(key, data["histories"].known, user_B, items, 1)[:, 0]
            value, gradient = jax.value_and_grad(loss)(variables, user_B, item_B, negative_B)
            changes, opt_state = optimizer.update(gradient, opt_state, variables)
            return (optax.apply_updates(variables, changes), opt_state), (
                value,
                optax.tree.norm(gradient),
            )

        keys = jax.random.split(negative_key, count)
        carry, (value_T, norm_T) = jax.lax.scan(update, carry, (event_TB2, keys))
        return carry, jnp.mean(value_T), jnp.mean(norm_T)

    def report(params, loss, norm):
        return StepReport(loss, norm, optax.tree.norm(params["tables"]), jnp.zeros(()))

    def factorise(data, seed_key, state, _):
        key = jax.random.fold_in(seed_key, state.step)
        params, opt_state = state.params, state.opt_state

        def loss(tables, *triple):
            return triple_loss(None, {}, rows(tables, *triple), own.table_decay)

        carry = params["tables"], opt_state["tables"]
        (tables, table_state), value, norm = pass_over(
            loss, table_optimizer, data, carry, 0, first, own.table_batch, key
        )
        params = {**params, "tables": tables}
        opt_state = {**opt_state, "tables": table_state}
        return TrainState(params, opt_state, state.step + 1), report(params, value, norm)

    def one_round(data, seed_key, state, _):
        key_a, key_d = jax.random.split(jax.random.fold_in(seed_key, state.step))
        params, opt_state = state.params, state.opt_state
        number = state.step - config.train.pretrain_steps
        t, repeat = number // own.repeats, number % own.repeats
        theta = params["theta"]
        last = jax.tree.map(partial(jnp.where, repeat == 0), params["tables"], params["last"])

        def table_loss(tables, *triple):
            given = rows(last, *triple), rows(tables, *triple)
            return triple_loss(theta, *given, own.table_decay)

        carry = params["tables"], opt_state["tables"]
        start = first + t * period
        (hat, table_state), _, norm = pass_over(
            table_loss, table_optimizer, data, carry, start, period, own.table_batch, key_a
        )

        def theta_loss(theta, *triple):
            return triple_loss(theta, rows(last, *triple), rows(hat, *triple), 0.0)

        def learn(carry):
            return pass_over(
                theta_loss,
                theta_optimizer,
                data,
                carry,
                start + period,
                period,
                own.transfer_batch,
                key_d,
            )[:2]

        carry = theta, opt_state["theta"]
        has_next = t < own.periods - early - 1
        (new_theta, theta_state), value = jax.lax.cond(
            has_next, learn, lambda carry: (carry, jnp.zeros(())), carry
        )
        # Within a period the next round starts from the tables under the theta before (b), after it under the new one (3).
        ends = repeat == own.repeats - 1
        applied = jax.tree.map(partial(jnp.where, ends), new_theta, theta)
        tables = transfer_tables(applied, last, hat)
        params = {"tables": tables, "last": last, "hat": hat, "theta": new_theta}
        opt_state = {"tables": table_state, "theta": theta_state}
        return TrainState(params, opt_state, state.step + 1), report(params, value, norm)

    def phase(key, title, steps, one, events, final):
        @partial(jax.jit, donate_argnums=0)
        def chunk(state: TrainState, data, seed_key: jax.Array):
            length = config.train.chunk
            return jax.lax.scan(partial(one, data, seed_key), state, None, length=length)

        return Phase(key, title, steps, chunk, "events", events, final)

    train = config.train
    phases = (
        phase("pretrain", "factorisation", train.pretrain_steps, factorise, first, False),
        # What counts is the model after the last period, not the best one on the way.
        phase("rounds", "rounds", train.steps - train.chunk, one_round, 2 * period, False),
        phase("rounds", "rounds", train.chunk, one_round, 2 * period, True),
    )

    def prepare(params):
        """What all users share: tables, and every item transferred without having been touched."""
        item_ID = params["tables"]["item"]
        return params, transfer(params["theta"]["item"], item_ID, item_ID)

    def score(prepared, batch, steps):
        params, still_ID = prepared
        tables = params["tables"]
        start_D = jnp.mean(tables["user"], axis=0)
        if own.start == "random":
            start_D = 0.01 * jax.random.normal(jax.random.key(config.protocol.seed), (dim,))
        start_BD = jnp.where(
            batch.user_B[:, None] >= 0, tables["user"][batch.user_B], start_D[None]
        )
        item_BL, real_BL = served_events(batch)
        negative_BSL = served_negatives(batch, config.protocol.seed, items, steps, item_BL.shape[1])
        final = partial(final_period, own, params, still_ID)
        return jax.vmap(final)(start_BD, item_BL, real_BL, negative_BSL)

    prepare, jitted = jax.jit(prepare), jax.jit(score, static_argnums=2)

    def bind(params, adapt_per="user"):
        del adapt_per
        prepared = prepare(params)
        return lambda batch, steps: jitted(prepared, batch, steps)

    phases = tuple(phase for phase in phases if phase.steps)
    return Model("sml", "epoch", True, data, initial, phases, bind, 1)


def final_period(
    own: SMLConfig,
    params: Params,
    still_ID: jax.Array,
    start_D: jax.Array,
    item_L: jax.Array,
    real_L: jax.Array,
    negative_SL: jax.Array,
) -> jax.Array:
    """Scores of one user [I] after a period that holds only the support.

    Args:
        own: settings.
        params: trained.
        still_ID: the items transferred untouched.
        start_D: the user's row before the period.
        item_L: support.
        real_L: which of it is real.
        negative_SL: fresh negatives of each step; as many steps are taken.
    """
    theta, table_ID = params["theta"], params["tables"]["item"]
    item_M = jnp.concatenate([item_L, negative_SL.reshape(-1)])
    slot_M = jnp.argmax(item_M[:, None] == item_M[None], axis=1)  # one row for an item drawn twice
    last = {"user": start_D[None], "item": table_ID[item_M]}
    length = item_L.shape[0]
    optimizer = optax.adam(own.table_rate)

    def loss(hat, step):
        negative = slot_M[length + step * length + jnp.arange(length)]
        slot = jnp.concatenate([slot_M[:length], negative])
        rows_last = {"user": last["user"], "item": last["item"][slot]}
        rows_hat = {"user": hat["user"], "item": hat["item"][slot]}
        moved = transfer_tables(theta, rows_last, rows_hat)
        each_L = pair_loss(moved["user"], moved["item"][:length], moved["item"][length:])
        norm_X = jnp.sum(rows_hat["item"] ** 2, axis=1)
        norm_L = jnp.sum(rows_hat["user"] ** 2) + norm_X[:length] + norm_X[length:]
        each_L = each_L + own.table_decay * 0.5 * norm_L
        return losses.masked_mean(each_L, real_L)

    def update(carry, step):
        hat, opt_state = carry
        changes, opt_state = optimizer.update(jax.grad(loss)(hat, step), opt_state, hat)
        return (optax.apply_updates(hat, changes), opt_state), None

    steps = negative_SL.shape[0]
    (hat, _), _ = jax.lax.scan(update, (last, optimizer.init(last)), jnp.arange(steps))
    p_D = transfer(theta["user"], last["user"], hat["user"])[0]
    score_I = still_ID @ p_D
    if not steps:
        return score_I
    touched_MD = transfer(theta["item"], last["item"], hat["item"])[slot_M]
    return score_I.at[item_M].set(touched_MD @ p_D)
