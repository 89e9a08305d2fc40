"""A trained model as its work directory holds it: nothing else is needed to serve it."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from metacsr_jax import workdir as workdirs
from metacsr_jax.checkpoint import Checkpoints
from metacsr_jax.compilation import cache_compilations
from metacsr_jax.errors import WorkdirError
from metacsr_jax.problem import Problem, make_problem
from metacsr_jax.protocol import load_protocol
from metacsr_jax.train import restore_params


class Trained(NamedTuple):
    """A restored model.

    Attributes:
        workdir: absolute path.
        problem: configuration, protocol, model.
        params: of the restored step.
        step: the restored step.
        manifest: of the work directory.
    """

    workdir: Path
    problem: Problem
    params: Any
    step: int
    manifest: dict[str, Any]

    @property
    def chosen_adapt_steps(self) -> int:
        """Adaptation steps chosen on validation users; before training has ended, the inner steps of training."""
        chosen = self.manifest.get("chosen_adapt_steps")
        return self.problem.model.inner_steps if chosen is None else chosen


def load_trained(workdir: str | os.PathLike, checkpoint: str = "best") -> Trained:
    """Restores a model on the devices at hand, whatever it was written on.

    Args:
        workdir: written by training.
        checkpoint: "best" (by validation), "last", or a saved step.

    Raises:
        WorkdirError: a part is missing, damaged or of another configuration.
    """
    path = Path(workdir).absolute()
    if not path.is_dir():
        raise WorkdirError(
            f"{path}: no such directory; expected a work directory written by training"
        )
    cache_compilations()
    config = workdirs.read_config(path)
    if not (path / "checkpoints").is_dir():
        raise WorkdirError(f"{path}/checkpoints: missing; train first")
    problem = make_problem(load_protocol(path / "protocol"), config)
    checkpoints = Checkpoints(path / "checkpoints", config.train.keep)
    try:
        step = checkpoints.resolve(checkpoint)
        params = restore_params(problem, checkpoints, step)
    finally:
        checkpoints.close()
    return Trained(path, problem, params, step, workdirs.read_manifest(path))
