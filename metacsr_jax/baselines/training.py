"""Epochs on the device for models whose loss is a function of parameters and a key, and draws from histories.

Dimension key: U users, K positions of a user, F training events, B samples, N negatives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metacsr_jax.model import Phase, Score
from metacsr_jax.negatives import draw_negatives, padded_known_items
from metacsr_jax.protocol import Protocol, training_events
from metacsr_jax.step import StepReport, TrainState
from metacsr_jax.tasks import Histories, draw_users, make_histories, scale

Loss = Callable[[Any, Histories, jax.Array], jax.Array]


def device_histories(protocol: Protocol, transductive: bool = False) -> Histories:
    """The events of `protocol.training_events` on the default device.

    Raises:
        ProtocolError: there is nothing to train on.
    """
    training = training_events(protocol, transductive)
    return jax.device_put(make_histories(training.offset_R1, training.item_F))


def start_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """A state before the first epoch."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def epochs(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    per_dispatch: int,
    updates: int,
    counts: str,
    per_update: int,
) -> Phase:
    """A phase of gradient descent in which one step is an epoch of many updates, all in one dispatch.

    Args:
        loss: (params, histories, key) -> scalar; draws its own samples, and consumes the key.
        optimizer: of all parameters.
        steps: epochs.
        per_dispatch: epochs per dispatch.
        updates: per epoch.
        counts: what an update works through, for the rate shown.
        per_update: how many of them.

    Returns:
        The phase. An epoch's draws depend on the seed key and the epoch's number alone.
    """

    def update(histories, carry, key):
        params, opt_state = carry
        value, gradient = jax.value_and_grad(loss)(params, histories, key)
        changes, opt_state = optimizer.update(gradient, opt_state, params)
        report = StepReport(
            value, optax.tree.norm(gradient), optax.tree.norm(params), jnp.zeros(())
        )
        return (optax.apply_updates(params, changes), opt_state), report

    def epoch(histories, seed_key, state, _):
        keys = jax.random.split(jax.random.fold_in(seed_key, state.step), updates)
        carry = state.params, state.opt_state
        (params, opt_state), reports = jax.lax.scan(partial(update, histories), carry, keys)
        return TrainState(params, opt_state, state.step + 1), jax.tree.map(jnp.mean, reports)

    @partial(jax.jit, donate_argnums=0)
    def chunk(state: TrainState, histories: Histories, seed_key: jax.Array):
        return jax.lax.scan(partial(epoch, histories, seed_key), state, None, length=per_dispatch)

    return Phase("train", "training", steps, chunk, counts, updates * per_update)


def draw_events(key: jax.Array, histories: Histories, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws training events uniformly: users and items, int32 [count] each; the key is consumed."""
    place_B = jax.random.randint(key, (count,), 0, histories.item_F.shape[0])
    user_B = jnp.searchsorted(histories.start_R, place_B, side="right").astype(jnp.int32) - 1
    return user_B, histories.item_F[place_B]


def draw_sets(
    key: jax.Array, histories: Histories, tasks: int, support: int, query: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws users, and of each distinct events in random order, some for the support and others for the query.

    Where a history is shorter than `support + query`, both get their share of it and at least one event, and the rest is masked out.

    Args:
        key: consumed.
        histories: users with two events or more are drawn, uniformly.
        tasks: U, users.
        support: positions of the support.
        query: positions of the query.

    Returns:
        User rows [U], item codes [U, support + query], and which are real, bool of the same shape.
    """
    user_key, order_key, jitter_key = jax.random.split(key, 3)
    user_U = draw_users(user_key, histories, "uniform", (tasks,))
    size = support + query
    count_U1 = histories.count_R[user_U][:, None]
    rank_UK = jax.random.uniform(order_key, (tasks, size)).argsort(axis=1)
    # Long histories: one event from each of `size` strata, the strata in random order. Short ones: a random rotation.
    low_UK = scale(rank_UK, count_U1, size)
    high_UK = jnp.maximum(scale(rank_UK + 1, count_U1, size), low_UK + 1)
    jitter_key, turn_key = jax.random.split(jitter_key)
    spread_UK = jax.random.randint(jitter_key, low_UK.shape, low_UK, high_UK)
    for_support_U1 = jnp.clip(count_U1 * support // size, 1, count_U1 - 1)
    slot_K = jnp.arange(size)[None]
    in_support = slot_K < support
    index_UK = jnp.where(in_support, slot_K, for_support_U1 + slot_K - support)
    room_UK = jnp.where(in_support, for_support_U1, count_U1)
    turn_U1 = jax.random.randint(turn_key, count_U1.shape, 0, count_U1)
    short = count_U1 < size
    mask_UK = jnp.where(short, index_UK < room_UK, True)
    position_UK = jnp.where(short, (index_UK + turn_U1) % count_U1, spread_UK)
    item_UK = histories.item_F[histories.start_R[user_U][:, None] + position_UK]
    return user_U, item_UK, mask_UK


def served_events(batch) -> tuple[jax.Array, jax.Array]:
    """The context of served users as a set: items [B, L] and which are real."""
    length = batch.context_BL.shape[1]
    return batch.context_BL, jnp.arange(length)[None] >= length - batch.length_B[:, None]


def served_negatives(batch, seed: int, num_items: int, steps: int, per_user: int) -> jax.Array:
    """Fresh negatives of served users for each adaptation step, int32 [B, steps, per_user].

    They depend on the history and on the step, not on who else is served, nor on how many steps follow.

    Args:
        batch: a `CaseBatch`; what it knows of a user is excluded, the held-out event is not.
        seed: `protocol.seed`.
        num_items: I.
        steps: adaptation steps.
        per_user: negatives per user and step.
    """
    known = padded_known_items(batch.known_BH, batch.known_count_B)

    def draw(history, row):
        key = jax.random.fold_in(jax.random.key(seed), history)

        def of_step(step):
            step_key = jax.random.fold_in(key, step)
            return draw_negatives(step_key, known, row[None], num_items, per_user)[0]

        return jax.vmap(of_step)(jnp.arange(steps))

    return jax.vmap(draw)(batch.seed_B, jnp.arange(batch.seed_B.shape[0]))


def scored_by(score: Callable[..., jax.Array]) -> Callable[[Any, str], Score]:
    """`Model.bind` of a jittable (params, batch, adapt_steps) -> logits whose users adapt each alone."""
    jitted = jax.jit(score, static_argnums=2)

    def bind(params, adapt_per="user"):
        del adapt_per
        return lambda batch, steps: jitted(params, batch, steps)

    return bind


def updates_per_epoch(events: int, batch: float) -> int:
    """Updates that cover `events` once where each covers `batch` of them on average."""
    return max(1, int(np.ceil(events / batch)))
