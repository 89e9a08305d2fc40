"""Outer steps on the device: draw tasks, take the outer gradient, update; many per dispatch (paper: algorithm 2)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metacsr_jax.config import Config
from metacsr_jax.graph import DiffusionInputs
from metacsr_jax.losses import needs_negatives
from metacsr_jax.meta import MetaLearner, plain_gradient
from metacsr_jax.models.metacsr import Network, Params
from metacsr_jax.neighbourhood import (
    Neighbourhood,
    draw_candidates,
    put_rows,
    reads_part,
    surround,
    take_rows,
)
from metacsr_jax.parallel import pinned, split
from metacsr_jax.tasks import Histories, draw_samples, draw_tasks, with_negatives


class TrainState(NamedTuple):
    """What training changes, and all that a checkpoint of it needs.

    Attributes:
        params: theta_1, theta_2 and what the meta-learner learns.
        opt_state: the outer optimizer's.
        step: int32, steps taken, pre-training included.
    """

    params: Params
    opt_state: optax.OptState
    step: jax.Array


class TrainData(NamedTuple):
    """What training reads, resident on the device."""

    histories: Histories
    inputs: DiffusionInputs


class StepReport(NamedTuple):
    """Scalars of each step of a chunk, stacked [steps].

    Attributes:
        loss: query loss after adaptation (or the plain loss where there is no inner loop).
        gradient_norm: global norm of the outer gradient before clipping.
        parameter_norm: global norm of the parameters before the update, with `optimizer.lazy` of the rows in use.
        shift: relative change of theta_2 under adaptation.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    parameter_norm: jax.Array
    shift: jax.Array


# Names of JAX for `train.precision`; its own default would round the factors of float32 products on GPUs and TPUs.
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
ChunkFunction = Callable[[TrainState, TrainData, jax.Array], tuple[TrainState, StepReport]]


def make_chunk(
    network: Network,
    learner: MetaLearner,
    optimizer: optax.GradientTransformation,
    config: Config,
    num_items: int,
    *,
    pretrain: bool,
) -> ChunkFunction:
    """Builds the jitted `(state, data, seed key) -> (state, reports)` that takes `train.chunk` steps; the state is donated.

    The randomness of a step is a function of the seed key and the step's number alone, so that a resumed run draws what an
    uninterrupted one would have drawn.

    Args:
        network: the model.
        learner: gives the outer gradient; not asked while pre-training.
        optimizer: of all parameters.
        config: sizes of tasks, loss and chunk.
        num_items: I.
        pretrain: take steps on single samples without inner loop.
    """
    negatives = config.loss.negatives if needs_negatives(config.loss) else 0
    max_length = config.model.max_length

    def attach(key, samples, user, histories):
        if not negatives:
            return samples
        return with_negatives(key, samples, user, histories.known, num_items, negatives)

    def located(key, data, *given):
        """The inputs of a step, and its samples with the places of items in the table that these lead to."""
        candidate_key, near_key = jax.random.split(jax.random.fold_in(key, 0))
        inputs = data.inputs
        if config.loss.candidates:
            drawn = draw_candidates(candidate_key, num_items, config.loss.candidates)
            inputs = inputs._replace(candidates=drawn)
        if not reads_part(config):
            return inputs, given
        codes = [(part.context_KL, part.target_K, part.negative_KN) for part in given]
        code_N = inputs.candidates.code_N if config.loss.candidates else None
        code_C, shaped = ravel_pytree((codes, code_N))
        users = data.histories.count_R.shape[0]
        near, place_C = surround(near_key, inputs, config.model, users, num_items, code_C)
        places, place_N = shaped(place_C)
        if config.loss.candidates:
            near = near._replace(candidates=inputs.candidates._replace(code_N=place_N))
        given = [
            part._replace(context_KL=context, target_K=target, negative_KN=negative)
            for part, (context, target, negative) in zip(given, places, strict=True)
        ]
        return near, given

    def plain_step(key, state, data):
        sample_key, negative_key, loss_key = jax.random.split(key, 3)
        samples, user = draw_samples(
            sample_key, data.histories, config.tasks, max_length, config.tasks.pretrain_batch
        )
        samples = attach(negative_key, samples, user, data.histories)
        inputs, (samples,) = located(key, data, samples)
        used = used_rows(state, inputs)
        result = plain_gradient(network, config.loss, used.params, inputs, split(samples), loss_key)
        return result, inputs, used

    def meta_step(key, state, data):
        task_key, support_key, query_key, loss_key = jax.random.split(key, 4)
        support, query, support_user, query_user = draw_tasks(
            task_key, data.histories, config.tasks, max_length
        )
        support = attach(support_key, support, support_user, data.histories)
        query = attach(query_key, query, query_user, data.histories)
        inputs, (support, query) = located(key, data, support, query)
        used = used_rows(state, inputs)
        result = learner.outer_gradient(used.params, inputs, split(support), split(query), loss_key)
        return result, inputs, used

    outer_step = plain_step if pretrain else meta_step

    def one(data, seed_key, state, _):
        key = jax.random.fold_in(seed_key, state.step)
        result, inputs, used = outer_step(key, state, data)
        gradient, updated = result.gradient, used if config.optimizer.lazy else state
        if used is not state and not config.optimizer.lazy:
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            gradient = put_rows(zeros, gradient, inputs.rows)
        updates, opt_state = optimizer.update(gradient, updated.opt_state, updated.params)
        report = StepReport(
            result.loss,
            optax.tree.norm(gradient),
            optax.tree.norm(updated.params),
            result.shift,
        )
        params = optax.apply_updates(updated.params, updates)
        new = TrainState(params, opt_state, state.step + 1)
        if config.optimizer.lazy:
            new = put_rows(state, new, inputs.rows)
        return pinned(new, config.model.tables), report

    @partial(jax.jit, donate_argnums=0)
    def chunk(state: TrainState, data: TrainData, seed_key: jax.Array):
        with jax.default_matmul_precision(PRECISIONS[config.train.precision]):
            return jax.lax.scan(
                partial(one, data, seed_key), state, None, length=config.train.chunk
            )

    return chunk


def used_rows(state: TrainState, inputs: DiffusionInputs | Neighbourhood) -> TrainState:
    """The state with those rows of the tables that the inputs name; all of it where they are the whole graph."""
    return take_rows(state, inputs.rows) if isinstance(inputs, Neighbourhood) else state


def init_state(
    network: Network,
    learner: MetaLearner,
    optimizer: optax.GradientTransformation,
    inputs: DiffusionInputs,
    key: jax.Array,
) -> TrainState:
    """A fresh state; the key is consumed."""
    params = learner.init(network.init(key, inputs))
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
