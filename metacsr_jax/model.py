"""What the training loop, the harness and recommendation see of a model, metaCSR and its rivals alike.

Dimension key: B users of a batch, I items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

if TYPE_CHECKING:
    from metacsr_jax.cases import CaseBatch
    from metacsr_jax.step import ChunkFunction, TrainState

Score = Callable[["CaseBatch", int], Any]


class Phase(NamedTuple):
    """A stretch of training in which every dispatch runs the same program.

    Attributes:
        key: short name in metrics.jsonl.
        title: name beside the progress bar.
        steps: how many, a multiple of `train.chunk`.
        chunk: (state, data, seed key) -> (state, reports), jitted, `train.chunk` steps; the state is donated.
        counts: what a step works through, for the rate shown.
        per_step: how many of them.
        final: whether a checkpoint of this phase may be the one that counts.
    """

    key: str
    title: str
    steps: int
    chunk: ChunkFunction
    counts: str
    per_step: int
    final: bool = True


class Model(NamedTuple):
    """A model as pure functions; everything it may learn from is in `data` already.

    Attributes:
        name: in reports.
        unit: what the loop counts: "step" (one update) or "epoch" (as many updates as cover the training events once).
        adapts: whether adaptation steps change its scores.
        data: arrays on the device that the chunks read.
        init: (key) -> the state before the first step; traceable, the key is consumed.
        phases: of training, in order; none for a model that only counts.
        bind: (params, adapt_per) -> (batch, adapt_steps) -> logits [B, I], higher is better; what does not depend on a user is
            computed once per call of `bind`. `adapt_per` is "user", or "group" where the model knows groups.
        inner_steps: adaptation steps that its training takes, the default where none have been chosen.
        describe: lines about sizes, for `--dry_run`.
        transductive: whether validation and new users' contexts are in `data` as well, with a row each after `training_events`.
    """

    name: str
    unit: str
    adapts: bool
    data: Any
    init: Callable[[jax.Array], TrainState]
    phases: tuple[Phase, ...]
    bind: Callable[[Any, str], Score]
    inner_steps: int = 0
    describe: Callable[[], Iterable[str]] = tuple
    transductive: bool = False

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_of(self, step: int) -> Phase:
        """The phase that holds the given step, counted from 1."""
        for phase in self.phases:
            if step <= phase.steps:
                return phase
            step -= phase.steps
        raise IndexError(f"step {step} is after the last phase")
