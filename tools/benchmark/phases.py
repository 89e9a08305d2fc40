"""Each phase of an outer step alone, and serving: what is called, on what, and how much work it is.

Dimension key: T tasks, K samples, B samples of all tasks, U users served, N candidates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metacsr_jax.models.diffusion import ItemTable
from metacsr_jax.score import ScoreFunction, make_score, support_samples
from metacsr_jax.step import TrainState
from metacsr_jax.tasks import Samples
from tools.benchmark.workload import Workload, draw_batch, new_users

SERVED = 256  # users adapted at once
CANDIDATES = 101
HISTORY = 9  # events of a user who is served
EVALUATION_STEPS = 5
CASES = 1207  # as many as MovieLens-1M has cold ones


class Phase(NamedTuple):
    """A jitted call.

    Attributes:
        function: jitted.
        arguments: to call it with.
    """

    function: Any
    arguments: tuple

    def call(self) -> Any:
        """Runs it."""
        return self.function(*self.arguments)


def phases_of(workload: Workload, state: TrainState, key: jax.Array) -> dict[str, Phase]:
    """What an outer step consists of. "outer" is the whole outer gradient: diffusion, encoder, negatives and inner steps once or
    more often each, and so more than their sum."""
    network, learner, config = workload.network, workload.learner, workload.config
    params, inputs = state.params, workload.data.inputs
    sampling = jax.jit(lambda key: draw_batch(workload, key))
    support, query = sampling(key)
    table = jax.jit(network.represent)(params["representer"], inputs)
    query_B = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), query)

    def diffusion(theta_1):
        table, pull = jax.vjp(lambda theta_1: network.represent(theta_1, inputs), theta_1)
        return table, pull(table)

    def encoder(theta_2, table, samples: Samples):
        def loss(theta_2, table):
            s_BD = network.encode(theta_2, table, samples.context_KL, samples.length_K)
            return jnp.sum(s_BD**2), s_BD

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(theta_2, table)

    def negatives(theta_2, table, s_BD, samples: Samples):
        def loss(s_BD, table):
            score_BN = network.score_candidates(theta_2, table, s_BD, samples.negative_KN)
            return jnp.sum(jax.nn.softplus(score_BN))

        return jax.value_and_grad(loss, (0, 1))(s_BD, table)

    def inner(params, table: ItemTable, support: Samples):
        personal = jax.vmap(learner.personalise, (None, None, 0, None))
        return personal(params, table, support, config.meta.inner_steps)

    def outer(params, support, query, key):
        return learner.outer_gradient(params, inputs, support, query, key)

    def optimizer(gradient, state: TrainState):
        updates, opt_state = workload.optimizer.update(gradient, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    encode = jax.jit(encoder)
    s_BD = encode(params["encoder"], table, query_B)[0][1]
    gradient = jax.tree.map(jnp.zeros_like, params)
    return {
        "sampling": Phase(sampling, (key,)),
        "diffusion": Phase(jax.jit(diffusion), (params["representer"],)),
        "encoder": Phase(encode, (params["encoder"], table, query_B)),
        "negatives": Phase(jax.jit(negatives), (params["encoder"], table, s_BD, query_B)),
        "inner": Phase(jax.jit(inner), (params, table, support)),
        "outer": Phase(jax.jit(outer), (params, support, query, key)),
        "optimizer": Phase(jax.jit(optimizer), (gradient, state)),
    }


def adapting(workload: Workload, state: TrainState) -> Phase:
    """One inner step for each of `SERVED` users of nine events, and scores of 101 candidates."""
    network, learner = workload.network, workload.learner
    batch = jax.device_put(new_users(workload, SERVED, HISTORY - 1))
    table = jax.jit(network.represent)(state.params["representer"], workload.data.inputs)
    item_UN = jax.random.randint(jax.random.key(2), (SERVED, CANDIDATES), 0, workload.sizes.items)

    def serve(params, table, batch, item_UN):
        support = support_samples(batch, workload.config, workload.sizes.items)

        def one(support, context_L, length, item_N):
            served = learner.serve(params, table, support, context_L[None], length[None], 1)
            return network.score_candidates(served.theta_2, table, served.s_GD, item_N[None])[0]

        return jax.vmap(one)(support, batch.context_BL, batch.length_B, item_UN)

    return Phase(jax.jit(serve), (state.params, table, batch, item_UN))


def score_by_samples(workload: Workload) -> ScoreFunction:
    """What `make_score` returns, without what it knows of users who are served."""
    network, learner = workload.network, workload.learner

    def score(params, table, batch, adapt_steps):
        support = support_samples(batch, workload.config, workload.sizes.items)

        def one(support, context_L, length):
            given = (support, context_L[None], length[None], adapt_steps)
            served = learner.serve(params, table, *given)
            return network.score_catalogue(served.theta_2, table, served.s_GD)[0]

        given = (support._replace(history=None), batch.context_BL, batch.length_B)
        return jax.vmap(one)(*given)

    return jax.jit(score, static_argnums=3)


def evaluating(
    workload: Workload, state: TrainState, at_once: int, by_samples: bool = False
) -> Callable[[int], Any]:
    """Five steps for each user and the rank of a target in the whole catalogue, `at_once` users a call.

    Args:
        workload: a model.
        state: its parameters.
        at_once: users a call.
        by_samples: the support as training reads it, each context for itself, not in the span of the user's history.

    Returns:
        A function of a number of users that serves so many and returns their ranks.
    """
    score = (
        score_by_samples(workload)
        if by_samples
        else make_score(workload.network, workload.learner, workload.config)
    )
    table = jax.jit(workload.network.represent)(state.params["representer"], workload.data.inputs)
    whole = jax.device_put(new_users(workload, -(-CASES // at_once) * at_once, HISTORY - 1))
    part = jax.jit(
        lambda batch, start: jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, start, at_once), batch
        )
    )
    rank = jax.jit(lambda score_BI: jnp.sum(score_BI > score_BI[:, :1], axis=1))

    def serve(users):
        return [
            rank(score(state.params, table, part(whole, start), EVALUATION_STEPS))
            for start in range(0, users, at_once)
        ]

    return serve
