"""Who is regular, who is new, who validates, and how many of their earliest events are kept.

Axes: U users, E events (CSR by user, in order), N new users with a case, V validation users.
"""

from typing import NamedTuple

import numpy as np

from metacsr_jax.config import ProtocolConfig
from metacsr_jax.errors import ProtocolError
from metacsr_jax.protocol.hashing import below, hash_key, mix
from metacsr_jax.protocol.record import EXCLUDED, NEW, REGULAR, VALIDATION


class Split(NamedTuple):
    """Roles, and what is kept: always a user's earliest events."""

    role_U: np.ndarray  # uint8
    keep_U: np.ndarray  # int64, 0 for excluded users
    excluded: dict[str, int]  # reason -> users
    regular_before_validation: int
    time_cut: int | None  # seconds; user_split=time only


def split_users(
    offset_U1: np.ndarray, time_E: np.ndarray, user_hash_U: np.ndarray, config: ProtocolConfig
) -> Split:
    """Applies `config.user_split`, turns some regular users into validation users, and keeps a share of the others to train on.

    Args:
        offset_U1: int64, CSR over the events.
        time_E: int64 seconds, ascending per user.
        user_hash_U: uint64 hash of each user's id.
        config: the split, its fractions, `keep_new`, `validation_fraction` and `seed`.

    Returns:
        The roles and kept lengths.

    Raises:
        ProtocolError: no regular user, or no new user with a case, is left.
    """
    count_U = np.diff(offset_U1)
    role_U = np.full(len(count_U), REGULAR, np.uint8)
    keep_U = count_U.copy()
    excluded = {}
    time_cut = None
    if config.user_split == "quantile":
        regular = int(config.regular_fraction * len(count_U) + 1e-9)  # .29 * 100 is 28.999...
        activity_U = np.lexsort((_draw(user_hash_U, config.seed, "cut"), -count_U))
        role_U[activity_U[regular:]] = NEW
    elif config.user_split == "range":
        role_U[count_U <= config.new_max] = NEW
        few_U = count_U < config.new_min
        role_U[few_U] = EXCLUDED
        excluded["fewer_events_than_new_min"] = int(few_U.sum())
    else:
        first_U = time_E[offset_U1[:-1]]
        time_cut = int(np.quantile(first_U, config.time_quantile, method="lower"))
        before_U = np.add.reduceat((time_E <= time_cut).astype(np.int64), offset_U1[:-1])
        role_U[first_U > time_cut] = NEW
        keep_U = np.where(role_U == NEW, count_U, before_U)

    keep_U = np.where(role_U == NEW, np.minimum(keep_U, config.keep_new), keep_U)
    short_U = (role_U == REGULAR) & (keep_U < 2)
    role_U[short_U] = EXCLUDED
    excluded["regular_with_one_event"] = int(short_U.sum())
    keep_U[role_U == EXCLUDED] = 0

    regular_before_validation = int((role_U == REGULAR).sum())
    if not regular_before_validation:
        raise ProtocolError(
            f"protocol.user_split={config.user_split!r}: no regular user is left of {len(count_U)},"
            f" who have {count_U.max()} positive events at most; expected one with two or more"
        )
    length_N = keep_U[(role_U == NEW) & (keep_U >= 2)]
    if not len(length_N):
        raise ProtocolError(
            f"protocol.user_split={config.user_split!r}: no new user with a case, since none of"
            f" {int((role_U == NEW).sum())} new users (of {len(count_U)} users) has two events;"
            " expected at least one: the last event is the target"
        )
    _appoint_validation(role_U, keep_U, length_N, user_hash_U, config)
    excluded["beyond_training_share"] = _leave_out(role_U, keep_U, user_hash_U, config)
    return Split(role_U, keep_U, excluded, regular_before_validation, time_cut)


def _appoint_validation(
    role_U: np.ndarray,
    keep_U: np.ndarray,
    length_N: np.ndarray,
    user_hash_U: np.ndarray,
    config: ProtocolConfig,
) -> None:
    """Turns regular users into pseudo-new ones with the new users' lengths, in place."""
    if not config.validation_fraction:
        return
    regular = np.flatnonzero(role_U == REGULAR)
    wanted = max(1, int(config.validation_fraction * len(regular) + 1e-9))
    if wanted >= len(regular):
        raise ProtocolError(
            f"protocol.validation_fraction={config.validation_fraction}: {wanted} of {len(regular)}"
            " regular users would validate; expected at least one left to train on"
        )
    order = np.argsort(_draw(user_hash_U[regular], config.seed, "validation"), kind="stable")
    user_V = regular[order[:wanted]]
    hash_V = _draw(user_hash_U[user_V], config.seed, "validation length")
    length_V = np.sort(length_N)[below(hash_V, len(length_N))]
    role_U[user_V] = VALIDATION
    keep_U[user_V] = np.minimum(keep_U[user_V], length_V)


def _leave_out(
    role_U: np.ndarray, keep_U: np.ndarray, user_hash_U: np.ndarray, config: ProtocolConfig
) -> int:
    """Excludes regular users beyond `training_share`, in place; a larger share holds all users of a smaller one."""
    regular = np.flatnonzero(role_U == REGULAR)
    wanted = max(1, round(config.training_share * len(regular)))
    order = np.argsort(_draw(user_hash_U[regular], config.seed, "training share"), kind="stable")
    left_out = regular[order[wanted:]]
    role_U[left_out] = EXCLUDED
    keep_U[left_out] = 0
    return len(left_out)


def _draw(user_hash_U: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A uint64 per user for one purpose."""
    return mix(user_hash_U ^ hash_key(seed, purpose))
