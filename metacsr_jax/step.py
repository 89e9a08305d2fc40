"""Outer steps on the device: draw tasks, take the outer gradient, update; many per dispatch (paper: algorithm 2)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metacsr_jax.config import Config
from metacsr_jax.graph import DiffusionInputs
from metacsr_jax.losses import needs_negatives
from metacsr_jax.meta import MetaLearner, OuterResult, plain_gradient
from metacsr_jax.models.metacsr import Network, Params
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
        parameter_norm: global norm of the parameters before the update.
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

    def plain_step(key, params, data) -> OuterResult:
        sample_key, negative_key, loss_key = jax.random.split(key, 3)
        samples, user = draw_samples(
            sample_key, data.histories, config.tasks, max_length, config.tasks.pretrain_batch
        )
        samples = split(attach(negative_key, samples, user, data.histories))
        return plain_gradient(network, config.loss, params, data.inputs, samples, loss_key)

    def meta_step(key, params, data) -> OuterResult:
        task_key, support_key, query_key, loss_key = jax.random.split(key, 4)
        support, query, support_user, query_user = draw_tasks(
            task_key, data.histories, config.tasks, max_length
        )
        support = split(attach(support_key, support, support_user, data.histories))
        query = split(attach(query_key, query, query_user, data.histories))
        return learner.outer_gradient(params, data.inputs, support, query, loss_key)

    outer_step = plain_step if pretrain else meta_step

    def one(data, seed_key, state, _):
        key = jax.random.fold_in(seed_key, state.step)
        result = outer_step(key, state.params, data)
        updates, opt_state = optimizer.update(result.gradient, state.opt_state, state.params)
        report = StepReport(
            result.loss,
            optax.tree.norm(result.gradient),
            optax.tree.norm(state.params),
            result.shift,
        )
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, opt_state, state.step + 1)
        return pinned(state, config.model.tables), report

    @partial(jax.jit, donate_argnums=0)
    def chunk(state: TrainState, data: TrainData, seed_key: jax.Array):
        with jax.default_matmul_precision(PRECISIONS[config.train.precision]):
            return jax.lax.scan(
                partial(one, data, seed_key), state, None, length=config.train.chunk
            )

    return chunk


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
