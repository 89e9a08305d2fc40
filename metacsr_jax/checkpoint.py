"""Checkpoints of training: orbax, one directory per step, state and progress in one."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from metacsr_jax.errors import WorkdirError
from metacsr_jax.step import TrainState


class Progress(NamedTuple):
    """Where early stopping stands; saved with the state so that a resumed run decides as an uninterrupted one.

    Attributes:
        best_step: step of the best validation so far; -1: none yet.
        best_value: its validation MAP.
        stale: validations since.
        seconds: of training so far, over all starts.
    """

    best_step: int = -1
    best_value: float = -1.0
    stale: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The `checkpoints/` of a work directory.

    Keeps the latest `keep` steps and the best one. Saves are atomic: a kill leaves the step before.
    """

    def __init__(self, directory: Path, keep: int = 2):
        """Opens or creates `directory`, which must be absolute."""
        self._keep = keep
        options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory, options=options)
        self._directory = directory

    def steps(self) -> list[int]:
        """Saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves a step in the background; a step saved before is left as it is."""
        step = int(jax.device_get(state.step))
        self.wait()
        if step in self._manager.all_steps():
            return
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress._asdict())
        )
        self._manager.save(step, args=content)

    def wait(self) -> None:
        """Returns when everything is on disk, and only then deletes the steps that are no longer needed."""
        self._manager.wait_until_finished()
        saved = self.steps()
        if len(saved) <= self._keep:
            return
        needed = {self.progress(saved[-1]).best_step, *saved[-self._keep :]}
        for old in set(saved) - needed:
            self._manager.delete(old)

    def close(self) -> None:
        """Waits and releases the directory."""
        self._manager.close()

    def progress(self, step: int) -> Progress:
        """Early stopping's state at a saved step."""
        content = self._manager.restore(
            step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
        return Progress(**content["progress"])

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """Reads a step's state onto the devices that `abstract` names.

        Args:
            step: one of `steps()`.
            abstract: `jax.ShapeDtypeStruct`s with shardings; where the state was written does not matter.

        Raises:
            WorkdirError: the checkpoint has other parameters or shapes.
        """
        content = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            return self._manager.restore(step, args=content)["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise WorkdirError(
                f"{self._directory}/{step}: does not fit this configuration: {error}"
            ) from error

    def resolve(self, name: str) -> int:
        """The step that "best", "last" or a number names.

        Raises:
            WorkdirError: there is no such checkpoint; the ones there are named.
        """
        saved = self.steps()
        if not saved:
            raise WorkdirError(f"{self._directory}: holds no checkpoint; train first")
        step: Any = saved[-1]
        if name == "best":
            best = self.progress(saved[-1]).best_step
            step = best if best >= 0 else saved[-1]
        elif name != "last":
            step = int(name) if name.isdecimal() else name
        if step not in saved:
            known = ", ".join(map(str, saved))
            raise WorkdirError(f"checkpoint {name!r}: expected best, last or one of {known}")
        return step


def abstract_on(state: TrainState, shardings: TrainState) -> TrainState:
    """Shapes and types of a state (arrays or `jax.eval_shape` results), each placed by its sharding."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )
