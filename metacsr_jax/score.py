"""Scores of a trained model for users it has not seen: adapt on the support, rank the catalogue.

Evaluation, validation during training and recommendation all score through here, and adapt through `MetaLearner.serve`.

Dimension key: B users, G users of a group, K support samples, L positions, I catalogue items.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metacsr_jax.cases import CaseBatch
from metacsr_jax.config import Config
from metacsr_jax.losses import needs_negatives
from metacsr_jax.meta import MetaLearner
from metacsr_jax.models.diffusion import ItemTable
from metacsr_jax.models.metacsr import Network, Params
from metacsr_jax.negatives import draw_negatives, padded_known_items
from metacsr_jax.tasks import History, Samples

ScoreFunction = Callable[[Params, ItemTable, CaseBatch, int], jax.Array]
CPU_USERS = 16  # adapted at once; more fall out of a CPU's caches (docs/performance.md)


def make_score(
    network: Network, learner: MetaLearner, config: Config, adapt_per: str = "user"
) -> ScoreFunction:
    """Builds the jitted `(params, table, batch, adapt_steps) -> logits [B, I]`.

    Args:
        network: the model.
        learner: whose `serve` adapts.
        config: of the run; `loss`, `protocol.seed` and `evaluation.group_size` are read.
        adapt_per: "user": each user has an adapted model; "group": users share one by groups of `group_size`, in the order of the
            batch (the paper's tasks), the last group being the smaller one.

    Returns:
        The score function; `adapt_steps` is static.
    """

    def score_group(params, table, context_GL, length_G, support, adapt_steps):
        served = learner.serve(params, table, support, context_GL, length_G, adapt_steps)
        return network.score_catalogue(served.theta_2, table, served.s_GD)

    def score(params, table, batch: CaseBatch, adapt_steps: int) -> jax.Array:
        users, num_items = batch.length_B.shape[0], table.bias_I.shape[0]
        support = support_samples(batch, config, num_items)
        size = 1 if adapt_per == "user" else config.evaluation.group_size
        short = -users % size

        def grouped(array):
            padded = jnp.pad(array, [(0, short)] + [(0, 0)] * (array.ndim - 1))
            return padded.reshape((users + short) // size, size, *array.shape[1:])

        def pooled(array):
            groups = grouped(array)
            return groups.reshape(groups.shape[0], -1, *array.shape[2:])

        given = jax.tree.map(pooled, support._replace(history=None))
        if adapt_per == "user":  # the pooled samples of a group have no common history
            given = given._replace(history=support.history)
        score_GI = jax.vmap(score_group, in_axes=(None, None, 0, 0, 0, None))(
            params,
            table,
            grouped(batch.context_BL),
            grouped(batch.length_B),
            given,
            adapt_steps,
        )
        return score_GI.reshape(-1, num_items)[:users]

    return jax.jit(score, static_argnums=3)


def support_samples(batch: CaseBatch, config: Config, num_items: int) -> Samples:
    """The batch's support as samples [B, K]; negatives, where the loss needs them, come from each user's own key."""
    negative_BKN = None
    rows_K = jnp.zeros(batch.support_target_BK.shape[1], jnp.int32)
    if needs_negatives(config.loss):
        known = padded_known_items(batch.known_BH, batch.known_count_B)
        base = jax.random.key(config.protocol.seed)

        def draw(seed, row):
            key = jax.random.fold_in(base, seed)
            return draw_negatives(key, known, rows_K + row, num_items, config.loss.negatives)

        negative_BKN = jax.vmap(draw)(batch.seed_B, jnp.arange(batch.seed_B.shape[0]))
    return Samples(
        batch.support_context_BKL,
        batch.support_length_BK,
        batch.support_target_BK,
        batch.support_mask_BK,
        negative_BKN,
        History(batch.history_BH, batch.events_B) if rows_K.size else None,
    )


def batch_size(
    config: Config, adapt_per: str = "user", adapt_steps: int = 0, batch: int | None = None
) -> int:
    """Users scored at once: at most `evaluation.batch`, and no more than a CPU's caches hold the adapted parameters of.

    Args:
        config: of the run.
        adapt_per: "user" or "group"; the size is rounded up so that no batch cuts a group.
        adapt_steps: 0 adapts nobody, and is not bounded by caches.
        batch: taken as it is instead; None: as above.
    """
    size = batch or config.evaluation.batch
    if not batch and adapt_steps and jax.default_backend() == "cpu":
        size = min(size, CPU_USERS)
    whole = config.evaluation.group_size if adapt_per == "group" else 1
    return -(-size // whole) * whole
