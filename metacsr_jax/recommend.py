"""Next items for users the model has never seen, in their own ids.

Dimension key: B histories, H their events, I catalogue items, K recommended items.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from metacsr_jax.cases import case_batch, pad_batch
from metacsr_jax.errors import DataError
from metacsr_jax.evaluate import score_of
from metacsr_jax.protocol import training_events
from metacsr_jax.score import batch_size
from metacsr_jax.trained import Trained, load_trained

History = Sequence[Any]
NAMED = 5  # unknown items shown in a warning


class Recommender:
    """A loaded model that ranks the catalogue for any number of new histories.

    Example:
        >>> recommender = load("runs/demo")
        >>> items, scores = recommender.recommend([[12, 7, 31]], k=10)
    """

    def __init__(self, trained: Trained):
        """Wraps a restored model; `load` does both."""
        self._trained = trained
        self._score = score_of(trained)
        self._item_ids = trained.problem.protocol.item_ids
        training = training_events(trained.problem.protocol)
        count_I = np.bincount(training.item_F, minlength=self._item_ids.size)
        self._popularity_I = np.log1p(count_I).astype(np.float32)

    @property
    def chosen_adapt_steps(self) -> int:
        """The number of adaptation steps that validation users favoured."""
        return self._trained.chosen_adapt_steps

    def unknown(self, ids: Sequence[Any]) -> list[Any]:
        """Those of the ids that are not in the catalogue, in order."""
        return self._codes(ids)[1]

    def recommend(
        self,
        histories: Sequence[History],
        k: int = 10,
        adapt_steps: int = 1,
        exclude_seen: bool = True,
        candidates: Sequence[Any] | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Adapts the model to each history and returns its best next items.

        Args:
            histories: item ids in the order of events, oldest first, as many as wanted; ids as in the log. The latest
                `model.max_length` events are the context, the latest ones with an event before them the support.
            k: items per history, at least 1; fewer come back where fewer candidates are left.
            adapt_steps: inner steps on the support; 0: the initialisation that all users share.
            exclude_seen: leave the history's own items out.
            candidates: rank these items only; None: the whole catalogue.

        Returns:
            Item ids and their scores (logits), best first, one array per history. A history without a known item gets the popularity
            order, scored by the logarithm of one plus the count.

        Warns:
            UserWarning: items that the model does not know are named and skipped.

        Raises:
            DataError: `k` or `adapt_steps` is out of range, a history is not a sequence of ids, or no candidate is known.
        """
        if k < 1:
            raise DataError(f"k={k}: expected at least 1")
        if adapt_steps < 0:
            raise DataError(f"adapt_steps={adapt_steps}: expected 0 or more")
        codes = self._histories(histories)
        allowed_I = self._candidates(candidates)
        items, scores = [], []
        for start in range(0, len(codes), self._batch(len(codes), adapt_steps)):
            part = codes[start : start + self._batch(len(codes), adapt_steps)]
            for code_H, score_I in zip(part, self._score_all(part, adapt_steps), strict=True):
                open_I = allowed_I.copy()
                if exclude_seen:
                    open_I[code_H] = False
                chosen = np.flatnonzero(open_I)
                order = np.argsort(-score_I[chosen], kind="stable")[:k]
                items.append(self._item_ids[chosen[order]])
                scores.append(score_I[chosen[order]])
        return items, scores

    def _score_all(self, codes: list[np.ndarray], adapt_steps: int) -> np.ndarray:
        config = self._trained.problem.config
        offset_N1 = np.concatenate([[0], np.cumsum([code_H.size for code_H in codes])])
        flat_H = np.concatenate([*codes, np.zeros(0, np.int32)])
        batch = case_batch(offset_N1, flat_H, config.model.max_length, config.protocol.max_support)
        batch = jax.device_put(pad_batch(batch, self._batch(len(codes), adapt_steps)))
        score_NI = np.array(jax.device_get(self._score(batch, adapt_steps)))[: len(codes)]
        empty_N = np.array([code_H.size == 0 for code_H in codes], bool)
        score_NI[empty_N] = self._popularity_I
        return score_NI

    def _batch(self, histories: int, adapt_steps: int) -> int:
        """Users scored at once: a power of two, so that few shapes are compiled, up to evaluation's batch."""
        limit = batch_size(self._trained.problem.config, adapt_steps=adapt_steps)
        return min(limit, 1 << max(histories - 1, 0).bit_length())

    def _histories(self, histories: Sequence[History]) -> list[np.ndarray]:
        unknown: list[Any] = []
        codes = []
        for row, history in enumerate(histories):
            if isinstance(history, str | bytes) or not hasattr(history, "__len__"):
                raise DataError(f"history {row} is {history!r}: expected a sequence of item ids")
            code_H, missing = self._codes(history)
            codes.append(code_H)
            unknown += missing
        self._warn(unknown, "histories")
        return codes

    def _candidates(self, candidates: Sequence[Any] | None) -> np.ndarray:
        if candidates is None:
            return np.ones(self._item_ids.size, bool)
        code_C, unknown = self._codes(candidates)
        self._warn(unknown, "candidates")
        if code_C.size == 0:
            raise DataError("candidates: none of them is in the catalogue")
        allowed_I = np.zeros(self._item_ids.size, bool)
        allowed_I[code_C] = True
        return allowed_I

    def _codes(self, ids: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
        """Catalogue codes of the known ids, in order, and the unknown ones. Ids may come as texts where the log's are numbers."""
        codes, unknown = [], []
        is_number = np.issubdtype(self._item_ids.dtype, np.integer)
        for identifier in ids:
            wanted: Any = str(identifier)
            if is_number:
                digits = wanted.removeprefix("-")
                wanted = int(wanted) if digits.isascii() and digits.isdigit() else None
            place = self._item_ids.size
            if wanted is not None:
                place = int(np.searchsorted(self._item_ids, wanted))
            if place < self._item_ids.size and self._item_ids[place] == wanted:
                codes.append(place)
            else:
                unknown.append(identifier)
        return np.array(codes, np.int32), unknown

    @staticmethod
    def _warn(unknown: list[Any], where: str) -> None:
        if unknown:
            distinct = list(dict.fromkeys(unknown))
            shown = ", ".join(map(repr, distinct[:NAMED]))
            more = f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else ""
            warnings.warn(
                f"{where}: not in the catalogue and skipped ({len(unknown)}): {shown}{more}",
                stacklevel=4,
            )


def load(workdir: str | os.PathLike, checkpoint: str = "best") -> Recommender:
    """Loads a work directory's model for recommendation.

    Args:
        workdir: written by training; nothing else is read.
        checkpoint: "best", "last" or a saved step.

    Raises:
        WorkdirError: the work directory cannot be used.
    """
    return Recommender(load_trained(workdir, checkpoint))
