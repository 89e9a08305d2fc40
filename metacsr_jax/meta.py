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


class MetaLearner(NamedTuple):
    """A meta-learning algorithm as three pure functions.

    Attributes:
        init: (params) -> params with what the algorithm itself learns.
        personalise: (params, table, support, steps) -> theta_2' of one task. The same function serves training, evaluation and
            recommendation.
        outer_gradient: (params, inputs, support, query, key) -> OuterResult over a meta-batch; samples lead with [T, K], the key is
            consumed.
    """

    init: Callable[[Params], Params]
    personalise: Callable[[Params, ItemTable, Samples, int], Params]
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
    if key is None and reads_windows(network, samples):
        no_tap_KO = no_taps(theta_2, samples)
        s_KD, _ = network.encode_windows(theta_2, table, *samples.history, no_tap_KO)
    else:
        s_KD = network.encode(theta_2, table, samples.context_KL, samples.length_K, key)
    return preference_loss(network, config, theta_2, table, s_KD, samples, reduction)


def reads_windows(network: Network, samples: Samples) -> bool:
    """Whether the samples are windows of one history that the encoder can read as such."""
    return samples.history is not None and network.encode_windows is not None


def no_taps(theta_2: Params, samples: Samples) -> jax.Array:
    """Taps of W6 that add nothing, [K, O]."""
    width = theta_2["readout"]["W6"]["kernel"].shape[1]
    return jnp.zeros((samples.target_K.shape[0], width))


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
            if reads_windows(network, support):
                s_KD, x_KF = network.encode_windows(theta_2, table, *support.history, tap_KO)
            else:
                s_KD, x_KF = network.encode_tapped(
                    theta_2, table, support.context_KL, support.length_K, tap_KO
                )
            loss = preference_loss(
                network, loss_config, theta_2, table, s_KD, support, config.inner_reduction
            )
            return loss, x_KF

        samples = support.target_K.shape[0]
        # Reptile averages the adapted copies themselves, Meta-SGD's rates are not the same for all of W6.
        whole = config.method in ("reptile", "metasgd")
        if not whole and low_rank_pays(fast, samples, steps):
            fast = adapt_low_rank(tapped_loss, fast, rate, steps, samples, first_order=first_order)
        else:
            fast = adapt(inner_loss, fast, rate, steps, first_order=first_order)
        return unflatten_dict({**shared, **fast})

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
        merged = jax.tree.map(
            lambda s, q: jnp.concatenate([s, q], axis=1).reshape((-1, *s.shape[2:])), support, query
        )
        return plain_gradient(network, loss_config, params, inputs, merged, key)

    outer = {"none": plain, "reptile": toward_adapted}.get(config.method, through_adaptation)
    return MetaLearner(init, personalise, outer)


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
