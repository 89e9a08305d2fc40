"""Rank of each held-out target among frozen negatives and in the whole catalogue.

Dimension key: B cases of one batch, I items of the catalogue, C frozen negatives, H history events,
N cases of a scenario.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.errors import DataError, NonFiniteError

if TYPE_CHECKING:
    from metacsr_jax.protocol import Cases


class Ranks(NamedTuple):
    """Where the targets of N cases stand."""

    rank_N: np.ndarray  # float32, 0-based mean rank under ties
    others_N: np.ndarray  # int32, candidates besides the target


def _mean_rank(score_BI: jax.Array, target_score_B1: jax.Array, *, where: jax.Array) -> jax.Array:
    """Greater plus half of equal, over the candidates in `where`."""
    greater_B = jnp.sum((score_BI > target_score_B1) & where, axis=1)
    equal_B = jnp.sum((score_BI == target_score_B1) & where, axis=1)
    return greater_B.astype(jnp.float32) + 0.5 * equal_B.astype(jnp.float32)


@jax.jit
def rank_sampled(score_BI: jax.Array, target_B: jax.Array, negative_BC: jax.Array) -> jax.Array:
    """Rank of the target among the target and its negatives (the paper's ranking, section 4.1.3).

    Args:
      score_BI: logits over the catalogue, finite.
      target_B: int32 item codes in 0..I-1.
      negative_BC: int32 item codes in 0..I-1, distinct, without the target.

    Returns:
      float32 rank_B, 0-based mean rank under ties, 0..C.
    """
    target_score_B1 = jnp.take_along_axis(score_BI, target_B[:, None], axis=1)
    negative_score_BC = jnp.take_along_axis(score_BI, negative_BC, axis=1)
    return _mean_rank(negative_score_BC, target_score_B1, where=jnp.ones_like(negative_BC, bool))


@jax.jit
def rank_full(
    score_BI: jax.Array, target_B: jax.Array, excluded_BH: jax.Array, excluded_mask_BH: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rank of the target in the whole catalogue without the excluded items.

    The target stays a candidate even where it is among the excluded; an item excluded twice counts
    once.

    Args:
      score_BI: logits over the catalogue, finite.
      target_B: int32 item codes in 0..I-1.
      excluded_BH: int32 item codes in 0..I-1, history items; anything in range where the mask is
        False.
      excluded_mask_BH: bool, which entries of excluded_BH count.

    Returns:
      float32 rank_B, 0-based mean rank under ties, and int32 others_B, the candidates besides the
      target.
    """
    row_B1 = jnp.arange(score_BI.shape[0])[:, None]
    target_B1 = target_B[:, None]
    out_BI = jnp.zeros(score_BI.shape, bool).at[row_B1, excluded_BH].max(excluded_mask_BH)
    # The target is no other candidate of itself, excluded or not.
    other_BI = ~out_BI.at[row_B1, target_B1].set(True)
    rank_B = _mean_rank(score_BI, jnp.take_along_axis(score_BI, target_B1, axis=1), where=other_BI)
    return rank_B, jnp.sum(other_BI, axis=1, dtype=jnp.int32)


@jax.jit
def _rank_batch(
    score_BI: jax.Array,
    target_B: jax.Array,
    negative_BC: jax.Array,
    excluded_BH: jax.Array,
    excluded_mask_BH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Both rankings of a batch, and how many scores of each case are not finite."""
    sampled_B = rank_sampled(score_BI, target_B, negative_BC)
    full_B, others_B = rank_full(score_BI, target_B, excluded_BH, excluded_mask_BH)
    return sampled_B, full_B, others_B, jnp.sum(~jnp.isfinite(score_BI), axis=1)


def rank_cases(
    score: Callable[[Any, int], Any],
    cases: "Cases",
    batches: Callable[[int, int], Any],
    adapt_steps: int,
    mask_seen: bool,
    batch: int,
) -> dict[str, Ranks]:
    """Ranks of all cases of a scenario, in batches of equal size so that nothing compiles twice.

    All transfers are explicit, so that it runs under `jax.transfer_guard("disallow")`; two batches
    are in flight at most. Batches reach the score function as device arrays; one that computes in
    NumPy takes them through `jax.device_get`.

    Args:
      score: `score(batch, adapt_steps) -> score_BI`, float32 logits over the whole catalogue, a jax
        or NumPy array.
      cases: N cases of one scenario.
      batches: `batches(start, stop)`, the model's input for cases start..stop-1 with stop <= N: a
        tree of arrays, NumPy or jax, with one row per case. Rows beyond stop - start are taken for
        padding; a short batch is padded here by rows of zeros (of a `CaseBatch`: empty users).
      adapt_steps: inner steps on each case's support, handed to `score`.
      mask_seen: full ranking without the items of the case's history (never without the target).
      batch: cases scored at once, at least 1.

    Returns:
      Ranks by the name of the candidates: "sampled-C" for C frozen negatives, and "full".

    Raises:
      DataError: the scores have another shape than [batch, I], or a case names an item code outside
        of 0..I-1.
      NonFiniteError: a score is NaN or infinite; names the first such case.
    """
    if batch < 1:
        raise DataError(f"evaluation: batch is {batch}; expected at least 1")
    total = len(cases.target_N)
    length_N = np.diff(cases.offset_N1) if mask_seen else np.zeros(total, np.int64)
    width = max(1, int(length_N.max(initial=0)))
    done: list[tuple[np.ndarray, ...]] = []
    pending: tuple[int, int, tuple[jax.Array, ...]] | None = None

    def collect() -> None:
        if pending is not None:
            done.append(_fetch(*pending, cases))

    for start in range(0, total, batch):
        stop = min(start + batch, total)
        score_BI = score(_on_device(batches(start, stop), batch), adapt_steps)
        if not isinstance(score_BI, jax.Array):
            score_BI = jax.device_put(np.asarray(score_BI, np.float32))
        if start == 0:
            _check_codes(cases, score_BI.shape, batch)
        elif score_BI.shape[0] != batch:
            raise DataError(f"evaluation: scores of {score_BI.shape}; expected [{batch}, items]")
        row_B = np.minimum(np.arange(start, start + batch), total - 1)
        excluded_BH, mask_BH = _history(cases, row_B, length_N, width)
        host = (cases.target_N[row_B], cases.negative_NC[row_B], excluded_BH, mask_BH)
        ranked = _rank_batch(score_BI, *jax.device_put(host, _replicated(score_BI)))
        collect()  # of the batch before: the device already works on this one
        pending = (start, stop, ranked)
    collect()
    columns = [np.concatenate(column) for column in zip(*done, strict=True)] or [np.zeros(0)] * 3
    sampled_N, full_N, others_N = columns
    negatives = cases.negative_NC.shape[1]
    return {
        f"sampled-{negatives}": Ranks(
            sampled_N.astype(np.float32), np.full(total, negatives, np.int32)
        ),
        "full": Ranks(full_N.astype(np.float32), others_N.astype(np.int32)),
    }


def _fetch(
    start: int, stop: int, ranked: tuple[jax.Array, ...], cases: "Cases"
) -> tuple[np.ndarray, ...]:
    """Ranks of one batch on the host, without the padding."""
    *ranks, bad_B = (column[: stop - start] for column in jax.device_get(ranked))
    if bad_B.any():
        row = int(np.argmax(bad_B > 0))
        case = start + row
        raise NonFiniteError(
            f"evaluation: case {case} (user code {cases.user_N[case]}, target code "
            f"{cases.target_N[case]}) has {bad_B[row]} scores that are NaN or infinite; "
            "expected finite logits for every item"
        )
    return tuple(ranks)


def _on_device(tree: Any, batch: int) -> Any:
    """Rows of zeros up to the batch size, on the device; device arrays of that size stay there."""

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.shape[0] == batch:
            return leaf
        leaf = np.asarray(jax.device_get(leaf))
        missing = [(0, batch - len(leaf)), *[(0, 0)] * (leaf.ndim - 1)]
        return jax.device_put(np.pad(leaf, missing))

    return jax.tree.map(put, tree)


def _replicated(array: jax.Array) -> jax.sharding.Sharding | None:
    """Where small inputs go so that they meet an array that is spread over a mesh."""
    if isinstance(array.sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(array.sharding.mesh, jax.sharding.PartitionSpec())
    return array.sharding


def _history(
    cases: "Cases", row_B: np.ndarray, length_N: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """History items of some cases, padded to a common width, and which of them count."""
    column_H = np.arange(width)
    mask_BH = column_H < length_N[row_B][:, None]
    place_BH = np.where(mask_BH, cases.offset_N1[row_B][:, None] + column_H, 0)
    if not mask_BH.any():
        return np.zeros(mask_BH.shape, np.int32), mask_BH
    return np.where(mask_BH, cases.item_H[place_BH], 0).astype(np.int32), mask_BH


def _check_codes(cases: "Cases", shape: tuple[int, ...], batch: int) -> None:
    """Refuses codes that the device would clamp or drop in silence."""
    if len(shape) != 2 or shape[0] != batch:
        raise DataError(f"evaluation: scores of shape {list(shape)}; expected [{batch}, items]")
    for name in ("target_N", "negative_NC", "item_H"):
        code = getattr(cases, name)
        if code.size and (code.min() < 0 or code.max() >= shape[1]):
            raise DataError(
                f"evaluation: {name} holds item codes {code.min()}..{code.max()}; "
                f"expected 0..{shape[1] - 1}, the {shape[1]} scored items"
            )
