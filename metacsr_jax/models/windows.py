"""Support samples of a user who is served: windows of one history, which share its items' projections (eqs. 2 to 8).

Every event of the history is projected by W4 and W5 once, not in each context that holds it, and a window reads only as many
positions as it can have events: of a new user with nine events 40 positions are encoded for eight samples, not 80.

Dimension key: H events of the history, K windows, L positions of one, P positions of the longest, F and O width of W6's input and
output, D = dim.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metacsr_jax.models.attention import PairAttention, project_pairs
from metacsr_jax.models.encoders import AttentionEncoder, apply_tapped

STEP = 2  # windows whose lengths differ by less are encoded together


class Group(NamedTuple):
    """Windows of one length.

    Attributes:
        starts: where each begins in the history; before it begins where negative.
        length: L.
    """

    starts: tuple[int, ...]
    length: int


def groups_of(history: int, count: int, longest: int) -> list[Group]:
    """The windows before the latest `count` events of a history, the earliest first.

    Args:
        history: H, at least count + 1.
        count: K.
        longest: P.
    """
    groups: list[Group] = []
    for end in range(history - count, history):
        length = min(-(-end // STEP) * STEP, longest)
        if groups and groups[-1].length == length:
            groups[-1] = Group((*groups[-1].starts, end - length), length)
        else:
            groups.append(Group((end - length,), length))
    return groups


def encode_windows(
    encoder: AttentionEncoder,
    theta_2: Any,
    item_HD: jax.Array,
    valid_H: jax.Array,
    tap_KO: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Preferences after each window before the latest K events of a history, the earliest window first. Without dropout.

    Args:
        encoder: the module.
        theta_2: its parameters.
        item_HD: vectors of a left-padded history's items, zeros at padding.
        valid_H: bool, False at padding.
        tap_KO: added to what W6 gives for each window (`encoders.Projection`).

    Returns:
        s [K, D] and what W6 read [K, F].
    """
    history, longest = item_HD.shape[0], encoder.config.max_length
    first = history - tap_KO.shape[0]  # K windows end before the events from here on
    of_history = (item_HD, valid_H, *project_pairs(theta_2["attention"], item_HD))
    # Whatever a window reads before the history begins is padding.
    padded = [_padded(array, longest) for array in of_history]

    def cut(array, starts, length):
        return jnp.stack([array[longest + start :][:length] for start in starts])

    def attend(item_LD, valid_L, *projected):
        attention = PairAttention(encoder.config)
        directed = attention.apply({"params": theta_2["attention"]}, item_LD, valid_L, projected)
        return [_padded(array, longest - array.shape[0]) for array in directed]

    def read(tap_O, *given):
        return apply_tapped(encoder, theta_2, tap_O, *given)

    attended = [
        jax.vmap(attend)(*(cut(array, *group) for array in padded))
        for group in groups_of(history, tap_KO.shape[0], longest)
    ]
    directed = tuple(jnp.concatenate(parts) for parts in zip(*attended, strict=True))
    starts = range(first - longest, history - longest)
    item_KPD, valid_KP = (cut(array, starts, longest) for array in padded[:2])
    return jax.vmap(read)(tap_KO, item_KPD, valid_KP, directed)


def _padded(array: jax.Array, ahead: int) -> jax.Array:
    return jnp.pad(array, [(ahead, 0)] + [(0, 0)] * (array.ndim - 1))
