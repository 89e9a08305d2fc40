"""Cold cases with shortened or shuffled histories, ranked by any trained model.

Dimension key: N cases, H history events of all cases (CSR).
"""

from collections.abc import Sequence

import numpy as np

from metacsr_jax.cases import CaseBatch
from metacsr_jax.evaluate import score_of
from metacsr_jax.evaluation.ranking import Ranks, rank_cases
from metacsr_jax.problem import case_inputs
from metacsr_jax.protocol import Cases, cases
from metacsr_jax.protocol.held_out import csr_take
from metacsr_jax.score import batch_size
from metacsr_jax.trained import Trained

LEAST_CASES = 20


def usable_length(held_out: Cases, most: int, share: float = 0.25) -> int:
    """The longest history that enough cases have: the share given, and at least `LEAST_CASES`; 0 where none has.

    Args:
        held_out: of one scenario.
        most: not more than this.
        share: of the cases, in (0, 1].
    """
    length_N = np.diff(held_out.offset_N1)
    wanted = max(LEAST_CASES, share * len(length_N))
    fit = [length for length in range(1, most + 1) if (length_N >= length).sum() >= wanted]
    return max(fit, default=0)


def latest(held_out: Cases, length: int, member_N: np.ndarray) -> Cases:
    """Some cases, with the latest `length` events of their history; a history that is shorter stays whole."""
    end_N = held_out.offset_N1[1:][member_N]
    kept_N = np.minimum(np.diff(held_out.offset_N1)[member_N], length)
    event_H, offset_N1 = csr_take(end_N - kept_N, kept_N)
    rows = {
        name: getattr(held_out, name)[member_N]
        for name in ("user_N", "target_N", "time_N", "negative_NC", "seen_N", "repeat_N")
    }
    return held_out._replace(offset_N1=offset_N1, item_H=held_out.item_H[event_H], **rows)


def shuffled(held_out: Cases, seed: int) -> Cases:
    """The same cases with each history in an order drawn at random."""
    case_H = np.repeat(np.arange(len(held_out.user_N)), np.diff(held_out.offset_N1))
    order_H = np.lexsort((np.random.default_rng(seed).random(len(case_H)), case_H))
    return held_out._replace(item_H=held_out.item_H[order_H])


def rank_histories(
    trained: Trained, scenario: str, histories: Sequence[Cases], adapt_steps: int
) -> list[Ranks]:
    """Ranks among the frozen negatives for each version of the cases.

    Args:
        trained: any model.
        scenario: whose support the cases have.
        histories: versions of its cases.
        adapt_steps: on the support, which follows from the history.
    """
    problem, score = trained.problem, score_of(trained)
    found = []
    for held_out in histories:
        inputs = case_inputs(problem, held_out, scenario)

        def batches(start: int, stop: int, inputs=inputs) -> CaseBatch:
            return CaseBatch(*(array[start:stop] for array in inputs))

        size = batch_size(problem.config, adapt_steps=adapt_steps)
        ranks = rank_cases(score, held_out, batches, adapt_steps, False, size)
        found.append(next(of for name, of in ranks.items() if name != "full"))
    return found


def lengths_to_rank(trained: Trained, scenario: str = "cold") -> tuple[Cases, list[int]]:
    """Cases with enough history, and the lengths 1, 2, ... to which to cut it.

    Every length has the same cases, so that the curve does not compare short histories with other users' long ones.
    """
    held_out = cases(trained.problem.protocol, scenario)
    longest = usable_length(held_out, trained.problem.config.protocol.keep_new - 1)
    member_N = np.flatnonzero(np.diff(held_out.offset_N1) >= longest)
    return latest(held_out, longest, member_N), list(range(1, longest + 1))
