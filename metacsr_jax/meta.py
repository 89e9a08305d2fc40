"""Meta Learner: one `adapt`, and the outer gradient of every variant built on it (paper: section 3.3, algorithm 2).

Dimension key: T tasks, K samples of a task.
Parameters: {"representer": theta_1, "encoder": theta_2} and, for Meta-SGD, {"rates": logarithms of the inner rates}.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from metacsr_jax import losses
from metacsr_jax.adaptation import (
    adapt,
    adapt_low_rank,
    low_rank_pays,
    relative_shift,
    split_adapted,
)
from metacsr_jax.config import LossConfig, MetaConfig
from metacsr_jax.graph import DiffusionInputs
from metacsr_jax.models.diffusion import ItemTable
from metacsr_jax.models.metacsr import Network, Params
from metacsr_jax.parts import mean_over_parts, tasks_at_once
from metacsr_jax.tasks import Samples


class OuterResult(NamedTuple):
    """One outer gradient.

    Attributes:
        loss: mean query loss after adaptation.
        gradient: a tree like the parameters.
        shift: relative change of theta_2 under adaptation, ||theta_2' - theta_2|| / ||theta_2||, mean over tasks.
    """

    loss: jax.Array
    gradient: Params
    shift: jax.Array


class Served(NamedTuple):
    """What a task's support made of the model, G users who share it.

    Attributes:
        theta_2: adapted; what reads items may be in the coordinates of `support`.
        s_GD: preferences after the users' latest events.
        support: as `sample_loss` reads it with this `theta_2`.
        shift: as in `OuterResult`, of this task.
    """

    theta_2: Params
    s_GD: jax.Array
    support: Samples
    shift: jax.Array


class MetaLearner(NamedTuple):
    """A meta-learning algorithm as pure functions.

    Attributes:
        init: (params) -> params with what the algorithm itself learns.
        personalise: (params, table, support, steps) -> theta_2' of one task. The same function serves training, evaluation and
            recommendation.
        serve: (params, table, support, context_GL, length_G, steps) -> Served: `personalise`, and the adapted model on the latest
            events of the task's users. Where the support is of one history, all of it in the span of that.
        outer_gradient: (params, inputs, support, query, key) -> OuterResult over a meta-batch; samples lead with [T, K], the key is
            consumed.
    """

    init: Callable[[Params], Params]
    personalise: Callable[[Params, ItemTable, Samples, int], Params]
    serve: Callable[..., Served]
    outer_gradient: Callable[..., OuterResult]


def sample_loss(
    network: Network,
    config: LossConfig,
    theta_2: Params,
    table: ItemTable,
    samples: Samples,
    reduction: str,
    key: jax.Array | None = None,
) -> jax.Array:
    """Loss of one task's samples [K] (eq. 10 or the configured alternative).

    Args:
        network: the model.
        config: which loss.
        theta_2: encoder parameters.
        table: item representations.
        samples: of one task.
        reduction: "sum" or "mean" over samples and terms.
        key: consumed for dropout; None: no dropout.
    """
    if in_coordinates(samples):
        history, count = samples.history.item_H.shape[0], samples.target_K.shape[0]
        s_KD = network.encode_windows(theta_2, samples.history, range(history - count, history))
    else:
        s_KD = network.encode(
            theta_2, table, samples.context_KL, samples.length_K, key, samples.runs
        )
    return preference_loss(network, config, theta_2, table, s_KD, samples, reduction)


def in_coordinates(samples: Samples) -> bool:
    """Whether the samples are windows of a history that is given by coordinates (`models.windows`)."""
    return samples.history is not None and samples.history.coordinate_HC is not None


def preference_loss(
    network: Network,
    config: LossConfig,
    theta_2: Params,
    table: ItemTable,
    s_KD: jax.Array,
    samples: Samples,
    reduction: str,
) -> jax.Array:
    """`sample_loss` of preferences that are there already."""
    if losses.needs_negatives(config):
        target_K1 = samples.target_K[:, None]
        item_KN = jnp.concatenate([target_K1, samples.negative_KN], axis=1)
        fixed = samples.history is not None
        score_KN = network.score_candidates(theta_2, table, s_KD, item_KN, fixed)
        per_sample = losses.PAIRED[config.name](score_KN[:, 0], score_KN[:, 1:])
    elif table.candidates is not None:
        code_N, items = table.candidates
        drawn = ItemTable(table.vector_ID[code_N], table.bias_I[code_N])
        score_KN = network.score_catalogue(theta_2, drawn, s_KD)
        target_K1 = samples.target_K[:, None]
        score_K = network.score_candidates(theta_2, table, s_KD, target_K1)[:, 0]
        per_sample = losses.drawn_softmax(
            score_K, score_KN, code_N[None] == target_K1, items, config.label_smoothing
        )
    else:
        logit_KI = network.score_catalogue(theta_2, table, s_KD)
        per_sample = losses.softmax(logit_KI, samples.target_K, config.label_smoothing)
    return losses.reduce(per_sample, samples.mask_K, reduction)


def make_meta_learner(network: Network, loss_config: LossConfig, config: MetaConfig) -> MetaLearner:
    """Builds the algorithm that `config.method` names: maml, fomaml, anil, reptile, metasgd or none."""
    adapted = "readout" if config.method == "anil" else config.adapted
    first_order = config.method in ("fomaml", "reptile")

    def init(params: Params) -> Params:
        if config.method != "metasgd":
            return params
        fast, _ = split_adapted(params["encoder"], adapted)
        start = jnp.log(config.inner_rate)
        rates = {path: jnp.full_like(leaf, start) for path, leaf in fast.items()}
        return {**params, "rates": unflatten_dict(rates)}

    def personalise(params: Params, table: ItemTable, support: Samples, steps: int) -> Params:
        samples = support.target_K.shape[0]
        if not samples or not steps:
            return params["encoder"]
        fast, shared = split_adapted(params["encoder"], adapted)
        rate: Any = config.inner_rate
        if config.method == "metasgd":
            rate = {path: jnp.exp(log) for path, log in flatten_dict(params["rates"]).items()}

        def inner_loss(fast):
            theta_2 = unflatten_dict({**shared, **fast})
            return sample_loss(
                network, loss_config, theta_2, table, support, config.inner_reduction
            )

        def tapped_loss(fast, tap_KO):
            theta_2 = unflatten_dict({**shared, **fast})
            s_KD, x_KF = network.encode_tapped(
                theta_2, table, support.context_KL, support.length_K, tap_KO
            )
            loss = preference_loss(
                network, loss_config, theta_2, table, s_KD, support, config.inner_reduction
            )
            return loss, x_KF

        # Reptile averages the adapted copies themselves, Meta-SGD's rates are not the same for all of W6.
        whole = config.method in ("reptile", "metasgd") or in_coordinates(support)
        if not whole and low_rank_pays(fast, samples, steps):
            fast = adapt_low_rank(tapped_loss, fast, rate, steps, samples, first_order=first_order)
        else:
            fast = adapt(inner_loss, fast, rate, steps, first_order=first_order)
        return unflatten_dict({**shared, **fast})

    def serve(params, table, support, context_GL, length_G, steps) -> Served:
        start, adapts = params["encoder"], steps and support.target_K.shape[0]
        if adapts and support.history is not None and localises(params):
            start, history = network.in_span(start, table, support.history)
            support = support._replace(history=history)
            theta_2 = personalise({**params, "encoder": start}, table, support, steps)
            # What precedes the latest event's successor is the last window.
            s_GD = network.encode_windows(theta_2, history, [history.item_H.shape[0]])
        else:
            theta_2 = personalise(params, table, support, steps)
            s_GD = network.encode(theta_2, table, context_GL, length_G)
        return Served(theta_2, s_GD, support, relative_shift(start, theta_2, params["encoder"]))

    def localises(params) -> bool:
        """Whether descent is the same in any orthonormal basis: not with a rate for each entry of a kernel."""
        fast, _ = split_adapted(params["encoder"], adapted)
        own_rates = fast if config.method == "metasgd" else {}
        return bool(network.item_kernels) and not any(
            path in own_rates for path in network.item_kernels
        )

    def task_loss(params, table, support, query, key):
        theta_2 = personalise(params, table, support, config.inner_steps)
        loss = sample_loss(network, loss_config, theta_2, table, query, "mean", key)
        return loss, (relative_shift(params["encoder"], theta_2), theta_2)

    def some_tasks(rest, table, given):
        """Loss, shift and adapted parameters, means over tasks."""
        loss_T, (shift_T, theta_2_T) = jax.vmap(task_loss, (None, None, 0, 0, 0))(
            rest, table, *given
        )
        adapted = theta_2_T if config.method == "reptile" else ()
        return jnp.mean(loss_T), jax.tree.map(lambda a: jnp.mean(a, axis=0), (shift_T, adapted))

    def all_tasks(params, inputs, support, query, key):
        """The representer is differentiated once, the tasks some at a time: memory does not grow with the meta-batch."""
        rest = {name: part for name, part in params.items() if name != "representer"}
        table, pull = jax.vjp(
            lambda theta_1: network.represent(theta_1, inputs), params["representer"]
        )

        def of_part(rest, table, part):
            return some_tasks(rest, table._replace(candidates=inputs.candidates), part)

        gradient_of = jax.value_and_grad(of_part, argnums=(0, 1), has_aux=True)
        given = (support, query, jax.random.split(key, query.target_K.shape[0]))
        samples = support.target_K.size + query.target_K.size
        (loss, (shift, adapted)), (of_rest, of_table) = mean_over_parts(
            lambda part: gradient_of(rest, table, part),
            given,
            tasks_at_once(config, samples, query.target_K.shape[0]),
        )
        (of_theta_1,) = pull(of_table)
        return OuterResult(loss, {"representer": of_theta_1, **of_rest}, shift), adapted

    def through_adaptation(params, inputs, support, query, key) -> OuterResult:
        return all_tasks(params, inputs, support, query, key)[0]

    def toward_adapted(params, inputs, support, query, key) -> OuterResult:
        """Reptile: theta_2 is pulled to the mean of its adapted copies; theta_1 takes the first-order query gradient."""
        result, adapted = all_tasks(params, inputs, support, query, key)
        scale = 1.0 / (config.inner_rate * max(config.inner_steps, 1))
        pull = jax.tree.map(lambda start, end: scale * (start - end), params["encoder"], adapted)
        return result._replace(gradient={**result.gradient, "encoder": pull})

    def plain(params, inputs, support, query, key) -> OuterResult:
        """No inner loop: support and query are samples alike."""
        both = (part._replace(runs=None) for part in (support, query))
        merged = jax.tree.map(
            lambda s, q: jnp.concatenate([s, q], axis=1).reshape((-1, *s.shape[2:])), *both
        )
        return plain_gradient(network, loss_config, params, inputs, merged, key)

    outer = {"none": plain, "reptile": toward_adapted}.get(config.method, through_adaptation)
    return MetaLearner(init, personalise, serve, outer)


def plain_gradient(
    network: Network,
    loss_config: LossConfig,
    params: Params,
    inputs: DiffusionInputs,
    samples: Samples,
    key: jax.Array,
) -> OuterResult:
    """Mean loss and gradient of samples [K] without adaptation (pre-training, `meta.method=none`); the key is consumed."""

    def loss_of(params):
        table = network.represent(params["representer"], inputs)
        table = table._replace(candidates=inputs.candidates)
        return sample_loss(network, loss_config, params["encoder"], table, samples, "mean", key)

    loss, gradient = jax.value_and_grad(loss_of)(params)
    return OuterResult(loss, gradient, jnp.zeros(()))
