"""Meta-training tasks, drawn on the device from a key (paper: section 3.3 and 4.1.2).

Dimension key: T tasks, K samples of a task, L = max_length, R regular users, F their events, V eligible users, N negatives.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.config import TaskConfig
from metacsr_jax.errors import ProtocolError
from metacsr_jax.negatives import KnownItems, draw_negatives, known_items
from metacsr_jax.runs import Run, Runs

RUNS = 10  # more would make products small


class History(NamedTuple):
    """The latest events of a user who is served.

    Attributes:
        item_H: int32, left-padded with 0, H > K of them; the contexts of the user's K samples are the windows before the latest K.
        events: int32, how many are real.
        coordinate_HC: the items in the basis that the encoder is in (`models.windows`), zeros at padding; None: it is in none, and
            reads the samples' contexts from the table.
    """

    item_H: jax.Array
    events: jax.Array
    coordinate_HC: jax.Array | None = None


class Samples(NamedTuple):
    """(context, next item) pairs; leading axes are [K] for one task, [T, K] for a meta-batch.

    Attributes:
        context_KL: int32, left-padded with 0.
        length_K: int32, real events in the context.
        target_K: int32, the event that followed.
        mask_K: bool, False where the history did not yield a sample.
        negative_KN: int32 items outside the user's history, or None where the loss ranks the whole catalogue.
        runs: where the lengths were drawn so that they are known to be bounded, by how much; of all K samples, or None.
        history: where all samples are of one user who is served with a fixed item table: the events that the contexts are windows of.
    """

    context_KL: jax.Array
    length_K: jax.Array
    target_K: jax.Array
    mask_K: jax.Array
    negative_KN: jax.Array | None
    history: History | None = None
    runs: Runs | None = None


class Histories(NamedTuple):
    """Regular users' training events on the device.

    Attributes:
        item_F: int32, all events, user by user, in order.
        start_R: int32, where each user begins.
        count_R: int32, number of events.
        eligible_V: int32, users with at least two events (one to see, one to predict).
        target_V1: int32, cumulated numbers of possible targets of the eligible users.
        known: their distinct items, which negatives avoid.
    """

    item_F: jax.Array
    start_R: jax.Array
    count_R: jax.Array
    eligible_V: jax.Array
    target_V1: jax.Array
    known: KnownItems


def make_histories(offset_R1: np.ndarray, item_F: np.ndarray) -> Histories:
    """Builds `Histories` on the host from CSR training events.

    Raises:
        ProtocolError: no user has two events, or the events do not fit 32-bit positions.
    """
    if item_F.size > np.iinfo(np.int32).max:
        raise ProtocolError(f"{item_F.size} training events, at most {np.iinfo(np.int32).max} fit")
    count_R = np.diff(offset_R1)
    eligible_V = np.flatnonzero(count_R >= 2)
    if eligible_V.size == 0:
        raise ProtocolError(
            "no regular user has two training events, so there is nothing to predict"
        )
    target_V1 = np.concatenate([[0], np.cumsum(count_R[eligible_V] - 1)])
    return Histories(
        item_F.astype(np.int32),
        offset_R1[:-1].astype(np.int32),
        count_R.astype(np.int32),
        eligible_V.astype(np.int32),
        target_V1.astype(np.int32),
        known_items(offset_R1, item_F),
    )


def draw_users(
    key: jax.Array, histories: Histories, weight: str, shape: tuple[int, ...]
) -> jax.Array:
    """Draws users, uniformly or in proportion to their possible targets (`weight="events"`); the key is consumed."""
    if weight == "uniform":
        place = jax.random.randint(key, shape, 0, histories.eligible_V.shape[0])
    else:
        target = jax.random.randint(key, shape, 0, histories.target_V1[-1])
        place = jnp.searchsorted(histories.target_V1, target, side="right") - 1
    return histories.eligible_V[place]


def draw_tasks(
    key: jax.Array, histories: Histories, config: TaskConfig, max_length: int
) -> tuple[Samples, Samples, jax.Array, jax.Array]:
    """Draws a meta-batch: `tasks` x `way` users, `support` + `query` samples each, without negatives.

    Args:
        key: consumed.
        histories: of the regular users.
        config: sizes and the way samples are drawn.
        max_length: L, the longest context.

    Returns:
        Support [T, way * support, ...] and query [T, way * query, ...] samples, and the user of each, int32. With `sampling=random`
        the contexts of a task are the longer the later a sample comes, up to the width of a stratum.
    """
    user_key, position_key, length_key = jax.random.split(key, 3)
    users = config.tasks * config.way
    user_W = draw_users(user_key, histories, config.user_weight, (users,))
    count_W = histories.count_R[user_W]
    draw = _random_targets if config.sampling == "random" else _newcomer_targets
    place_WK, first_WK, mask_WK = draw(position_key, count_W, config, max_length)
    in_strata = config.sampling == "random"
    if in_strata:
        length_WK = _lengths_in_strata(length_key, config, max_length)
        first_WK = jnp.maximum(place_WK - length_WK, 0)
    context, length, target = _gather(histories, user_W, place_WK, first_WK, max_length)
    samples = Samples(context, length, target, mask_WK, None)

    def part(start, stop):
        count = config.way * (stop - start)

        def cut(array):
            piece = array[:, start:stop]
            if (
                in_strata
            ):  # all users' first samples, which are the shortest, then their second ones
                piece = piece.reshape((config.tasks, config.way, *piece.shape[1:])).swapaxes(1, 2)
            return piece.reshape((config.tasks, count, *array.shape[2:]))

        owner = jnp.broadcast_to(user_W[:, None], place_WK.shape)
        runs = _runs(count, config.min_length, max_length) if in_strata else None
        return jax.tree.map(cut, samples)._replace(runs=runs), cut(owner)

    support, support_user = part(0, config.support)
    query, query_user = part(config.support, config.support + config.query)
    return support, query, support_user, query_user


def draw_samples(
    key: jax.Array, histories: Histories, config: TaskConfig, max_length: int, count: int
) -> tuple[Samples, jax.Array]:
    """Draws `count` single samples [count, ...] and their users, for training without tasks; the key is consumed."""
    user_key, place_key, length_key, early_key = jax.random.split(key, 4)
    user_B = draw_users(user_key, histories, config.user_weight, (count,))
    last_B1 = histories.count_R[user_B][:, None]
    early_B1 = jax.random.bernoulli(early_key, config.early, last_B1.shape)
    last_B1 = jnp.where(early_B1, jnp.minimum(last_B1, max_length + 1), last_B1)
    place_B1 = jax.random.randint(place_key, (count, 1), 1, last_B1)
    first_B1 = _random_first(length_key, place_B1, config.min_length, max_length)
    context, length, target = _gather(histories, user_B, place_B1, first_B1, max_length)
    mask_B1 = jnp.ones_like(place_B1, bool)
    samples = Samples(context, length, target, mask_B1, None)
    return jax.tree.map(lambda array: array[:, 0], samples), user_B


def with_negatives(
    key: jax.Array, samples: Samples, user: jax.Array, known: KnownItems, num_items: int, count: int
) -> Samples:
    """Adds `count` negatives per sample, outside the history of each sample's user; the key is consumed."""
    flat = draw_negatives(key, known, user.reshape(-1), num_items, count)
    return samples._replace(negative_KN=flat.reshape((*user.shape, count)))


def _random_targets(key, count_W, config, max_length):
    """Distinct target positions 1..count-1 of each user where there are enough, half-and-half blocks where not."""
    del max_length
    size = config.support + config.query
    order_key, jitter_key, turn_key = jax.random.split(key, 3)
    choices_W1 = count_W[:, None] - 1
    slot_WK = jax.random.uniform(order_key, (count_W.shape[0], size)).argsort(axis=1)
    low_WK = scale(slot_WK, choices_W1, size)
    high_WK = jnp.maximum(scale(slot_WK + 1, choices_W1, size), low_WK + 1)
    spread_WK = jax.random.randint(jitter_key, low_WK.shape, low_WK, high_WK)
    # Too few positions for distinct samples: a rotated block of them serves the support, the others the query.
    for_support_W1 = jnp.clip(
        choices_W1 * config.support // size, 1, jnp.maximum(choices_W1 - 1, 1)
    )
    index_K = jnp.arange(size)[None]
    block_WK = jnp.where(
        index_K < config.support,
        index_K % for_support_W1,
        for_support_W1 + (index_K - config.support) % jnp.maximum(choices_W1 - for_support_W1, 1),
    )
    turn_W1 = jax.random.randint(turn_key, choices_W1.shape, 0, choices_W1)
    block_WK = (block_WK + turn_W1) % choices_W1
    place_WK = 1 + jnp.where(choices_W1 >= size, spread_WK, block_WK)
    return place_WK, None, jnp.ones_like(place_WK, bool)


def scale(slot_WK, choices_W1, size):
    """floor(slot * choices / size) without overflowing 32 bits."""
    return slot_WK * (choices_W1 // size) + slot_WK * (choices_W1 % size) // size


def _random_first(key, place, min_length, max_length):
    """Start of a context of uniform length min_length..max_length before each target, cut at the history's start."""
    length = jax.random.randint(key, place.shape, min(min_length, max_length), max_length + 1)
    return jnp.maximum(place - length, 0)


def _lengths_in_strata(key, config, max_length):
    """Lengths of contexts: each uniform over min_length..max_length, those of a task spread evenly over it.

    Of the n samples of a task's support, and so of its query, sample k's is the length at (k + U) / n of the range, U uniform. A user's
    samples are `way` apart, so that those of each user are spread, too.
    """
    least = min(config.min_length, max_length)
    parts = []
    for shots in (config.support, config.query):
        count = config.way * shots
        stratum_WK = np.arange(count).reshape(shots, config.way).T
        longest_WK = _longest(stratum_WK, count, least, max_length)
        parts.append((stratum_WK, np.full_like(stratum_WK, count), longest_WK))
    stratum_WK, count_WK, longest_WK = (
        np.tile(np.concatenate(arrays, axis=1), (config.tasks, 1))
        for arrays in zip(*parts, strict=True)
    )
    share_WK = (stratum_WK + jax.random.uniform(key, stratum_WK.shape)) / count_WK
    length_WK = least + (share_WK * (max_length + 1 - least)).astype(jnp.int32)
    return jnp.minimum(length_WK, longest_WK)  # where rounding has gone up to the next stratum


def _longest(stratum, count, least, most):
    """The longest context of a stratum."""
    return least + -(-(stratum + 1) * (most + 1 - least) // count) - 1


def _runs(count: int, min_length: int, max_length: int) -> Runs:
    """A task's samples in up to `RUNS` runs from the shortest to the longest, each of about as many lengths."""
    least = min(min_length, max_length)
    lengths = max_length + 1 - least
    groups = min(RUNS, lengths)
    known = [-(-lengths * group // groups) for group in range(1, groups + 1)]
    ends = sorted({count * lengths_known // lengths for lengths_known in known} - {0})
    return Runs(
        Run(end - start, _longest(end - 1, count, least, max_length))
        for start, end in zip([0, *ends], ends, strict=False)
    )


def _newcomer_targets(key, count_W, config, max_length):
    """A window of each history is played as a new user's: its prefixes are the support, what follows is the query."""
    size = config.support + config.query
    start_key, cut_key, early_key = jax.random.split(key, 3)
    choices_W1 = count_W[:, None] - 1
    start_W1 = jax.random.randint(
        start_key, choices_W1.shape, 0, jnp.maximum(choices_W1 - size + 1, 1)
    )
    early_W1 = jax.random.bernoulli(early_key, config.early, start_W1.shape)
    start_W1 = jnp.where(early_W1, 0, start_W1)
    # A history shorter than the window is shared out between support and query, the query never left empty.
    shared_W1 = jnp.minimum(choices_W1, size) * config.support // size
    index_K = jnp.arange(size)[None]
    offset_WK = jnp.where(index_K < config.support, index_K, shared_W1 + index_K - config.support)
    room_W1 = jnp.minimum(choices_W1, size)
    mask_WK = offset_WK < jnp.where(index_K < config.support, shared_W1, room_W1)
    place_WK = start_W1 + 1 + offset_WK
    # Half of the windows keep what came before them, as a regular user's support does at meta-test.
    young_W1 = jax.random.bernoulli(cut_key, 0.5, start_W1.shape)
    first_WK = jnp.maximum(jnp.where(young_W1, start_W1, 0), place_WK - max_length)
    return jnp.where(mask_WK, place_WK, 1), jnp.where(mask_WK, first_WK, 0), mask_WK


def _gather(histories, user_W, place_WK, first_WK, max_length):
    position_WKL = place_WK[..., None] - max_length + jnp.arange(max_length)[None, None]
    real_WKL = position_WKL >= first_WK[..., None]
    start_W1 = histories.start_R[user_W][:, None]
    flat_WKL = jnp.where(real_WKL, start_W1[..., None] + position_WKL, 0)
    context_WKL = jnp.where(real_WKL, histories.item_F[flat_WKL], 0)
    length_WK = jnp.sum(real_WKL, axis=-1, dtype=jnp.int32)
    return context_WKL, length_WK, histories.item_F[start_W1 + place_WK]
