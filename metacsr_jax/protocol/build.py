"""From a log to its protocol: positives, order, users, catalogue, negatives, manifest.

Axes: P positive rows of the log, E events in order, U users, I items of the catalogue, L items of
the log, N cases, S touched (user, item) pairs.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from metacsr_jax.config import ProtocolConfig
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import ConfigError, ProtocolError
from metacsr_jax.protocol.artefact import with_hashes
from metacsr_jax.protocol.hashing import hash_ids
from metacsr_jax.protocol.held_out import case_users, csr_take
from metacsr_jax.protocol.manifest import describe
from metacsr_jax.protocol.negatives import draw_negatives
from metacsr_jax.protocol.order import order_events
from metacsr_jax.protocol.record import SCENARIOS, Protocol
from metacsr_jax.protocol.settings import check_config
from metacsr_jax.protocol.split import split_users
from metacsr_jax.sorting import unique


class _Codes(NamedTuple):
    """Codes of the log (index) to codes of the protocol (value; -1: not in it)."""

    user_ids: np.ndarray
    item_ids: np.ndarray
    user_of: np.ndarray  # int64
    item_of: np.ndarray  # int64


def build_protocol(log: Interactions, config: ProtocolConfig) -> Protocol:
    """Decides once who is new, what is held out and against what it is ranked.

    Nothing depends on a training seed, nor (`tie_policy="hash"`) on the order of the log's rows.

    Args:
        log: all events, low ratings included: nothing a user touched becomes a negative.
        config: the rules; see `ProtocolConfig`.

    Returns:
        The artefact, with counts, shares and hashes in its manifest.

    Raises:
        ConfigError: a setting is out of range, or the log lacks what it needs.
        ProtocolError: too few users, events or items are left.
    """
    check_config(config)
    if config.user_split == "time" and not log.has_time:
        raise ConfigError(
            f"protocol.user_split='time': {log.name} has an order but no timestamps; expected"
            " 'quantile' or 'range'"
        )
    row_P = _positive_rows(log, config)
    user_P, item_P, time_P = log.user_E[row_P], log.item_E[row_P], log.time_E[row_P]
    codes = _make_codes(log, config, user_P, item_P)
    del row_P
    user_P, item_P = codes.user_of[user_P], codes.item_of[item_P]
    user_hash_U = hash_ids(codes.user_ids)
    ordered = order_events(
        user_P,
        item_P,
        time_P,
        user_hash_U,
        hash_ids(codes.item_ids),
        tie_policy=config.tie_policy,
        seed=config.seed,
    )
    user_E, item_E, time_E = (array[ordered.row_E] for array in (user_P, item_P, time_P))
    del user_P, item_P, time_P
    count_U = np.bincount(user_E, minlength=len(codes.user_ids))
    offset_U1 = np.concatenate([[0], np.cumsum(count_U)])
    split = split_users(offset_U1, time_E, user_hash_U, config)
    pairs = len(unique(user_E * len(codes.item_ids) + item_E))
    has_repeats = pairs < len(item_E)

    kept_E, kept_offset_U1 = csr_take(offset_U1[:-1], split.keep_U)
    protocol = Protocol(
        config=config,
        name=log.name,
        item_ids=codes.item_ids,
        user_ids=codes.user_ids,
        role_U=split.role_U,
        offset_U1=kept_offset_U1,
        item_E=item_E[kept_E].astype(np.int32),
        time_E=time_E[kept_E].astype(np.int64),
        negative_NC=_all_negatives(log, config, codes, split.role_U, kept_offset_U1, user_hash_U),
        mask_seen={"yes": True, "no": False, "auto": not has_repeats}[config.mask_seen],
        item_features=_realign(log.item_features, codes.item_of, len(codes.item_ids)),
        user_features=_realign(log.user_features, codes.user_of, len(codes.user_ids)),
        manifest={},
    )
    positive_I = np.zeros(len(codes.item_ids), bool)
    positive_I[item_E] = True
    counts = {
        "log_rows": log.num_events,
        "log_users": log.num_users,
        "log_items": log.num_items,
        "events": len(item_E),
        "simultaneous_duplicates": ordered.duplicates,
        "positive_items": int(positive_I.sum()),
    }
    manifest = describe(protocol, split, counts, positive_I, repeat_rate=1 - pairs / len(item_E))
    manifest["reader"] = {name: int(value) for name, value in log.counts.items()}
    return with_hashes(dataclasses.replace(protocol, manifest=manifest))


def _positive_rows(log: Interactions, config: ProtocolConfig) -> np.ndarray | slice:
    """Rows that count as positive: rated `min_rating` or more, or all where nothing is rated."""
    if log.rating_E is None:
        return slice(None)
    row_P = np.flatnonzero(log.rating_E >= np.float32(config.min_rating))
    if not len(row_P):
        raise ProtocolError(
            f"protocol.min_rating={config.min_rating}: no user is left in {log.name}, with"
            f" {log.num_events} events before and 0 after; expected at most the highest rating,"
            f" {log.rating_E.max()}"
        )
    return slice(None) if len(row_P) == log.num_events else row_P


def _make_codes(
    log: Interactions, config: ProtocolConfig, user_P: np.ndarray, item_P: np.ndarray
) -> _Codes:
    """Users with a positive event and the catalogue, both in the order of their ids."""
    active_U = np.bincount(user_P, minlength=log.num_users) > 0
    if active_U.sum() < 2:
        raise ProtocolError(
            f"{log.name}: one single user, {log.user_ids[active_U][0]!s}, has positive events"
            f" ({log.num_events} events before min_rating={config.min_rating} and {len(user_P)}"
            " after); expected users to learn from and new ones"
        )
    user_of = np.where(active_U, np.cumsum(active_U) - 1, -1)
    user_ids = log.user_ids[active_U]
    if config.catalogue == "positive":
        active_L = np.bincount(item_P, minlength=log.num_items) > 0
        item_of = np.where(active_L, np.cumsum(active_L) - 1, -1)
        return _Codes(user_ids, log.item_ids[active_L], user_of, item_of)
    if log.declared_items is None:
        raise ConfigError(
            f"protocol.catalogue='declared': {log.name} declares no id range; expected 'positive'"
        )
    item_ids = np.union1d(log.declared_items, log.item_ids)
    return _Codes(user_ids, item_ids, user_of, np.searchsorted(item_ids, log.item_ids))


def _all_negatives(
    log: Interactions,
    config: ProtocolConfig,
    codes: _Codes,
    role_U: np.ndarray,
    offset_U1: np.ndarray,
    user_hash_U: np.ndarray,
) -> dict[str, np.ndarray]:
    """Negatives of every scenario, against the full log."""
    num_items = len(codes.item_ids)
    # By codes of the protocol; low ratings and dropped events are in it.
    touched = codes.user_of[log.user_E]
    item = codes.item_of[log.item_E]
    known = (touched >= 0) & (item >= 0)
    pair_S = unique(touched[known] * num_items + item[known])
    del touched, item, known
    user_S, item_S = np.divmod(pair_S, num_items)
    negatives = {}
    for scenario in SCENARIOS:
        user_N = case_users(role_U, offset_U1, scenario)
        case_of = np.full(len(role_U), -1)
        case_of[user_N] = np.arange(len(user_N))
        mine_S = case_of[user_S] >= 0
        negatives[scenario] = draw_negatives(
            case_of[user_S[mine_S]] * num_items + item_S[mine_S],
            user_hash_U[user_N],
            codes.user_ids[user_N],
            num_items=num_items,
            num_negatives=config.num_negatives,
            seed=config.seed,
            scenario=scenario,
        )
    return negatives


def _realign(features: np.ndarray | None, code_of: np.ndarray, rows: int) -> np.ndarray | None:
    """Feature rows in the order of the protocol's codes; ids unknown to the log get zeros."""
    if features is None:
        return None
    aligned = np.zeros((rows, features.shape[1]), np.float32)
    known = code_of >= 0
    aligned[code_of[known]] = features[known]
    return aligned
