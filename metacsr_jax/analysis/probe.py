"""Inside metaCSR at a number of adaptation steps: preferences, similarities, losses, change of the parameters.

Dimension key: N cases, B cases of a batch, D = dim, C frozen negatives, K support samples, I items.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metacsr_jax.cases import CaseBatch, pad_batch
from metacsr_jax.config import Config
from metacsr_jax.errors import NonFiniteError, WorkdirError
from metacsr_jax.files import write_whole
from metacsr_jax.meta import MetaLearner, sample_loss
from metacsr_jax.metacsr import make_parts
from metacsr_jax.models.metacsr import Network
from metacsr_jax.problem import scenario_batches
from metacsr_jax.score import batch_size, support_samples
from metacsr_jax.trained import Trained


class Probe(NamedTuple):
    """N cases after a number of adaptation steps.

    Attributes:
        score_NC1: float32 logits, the target's first and then the frozen negatives'.
        similarity_NC1: float32 inner products of the preference and the same items' vectors, without item bias (figure 9).
        preference_ND: float32, s_u of eq. 8.
        support_loss_N: float32, the loss that adaptation lowers, mean over the support; NaN for a case without support.
        shift_N: float32, ||theta_2' - theta_2|| / ||theta_2||.
    """

    score_NC1: np.ndarray
    similarity_NC1: np.ndarray
    preference_ND: np.ndarray
    support_loss_N: np.ndarray
    shift_N: np.ndarray

    @property
    def rank_N(self) -> np.ndarray:
        """0-based mean rank of the target under ties."""
        target_N1, negative_NC = self.score_NC1[:, :1], self.score_NC1[:, 1:]
        return (negative_NC > target_N1).sum(1) + 0.5 * (negative_NC == target_N1).sum(1)

    @property
    def target_loss_N(self) -> np.ndarray:
        """Cross-entropy of the target among its negatives: one yardstick for models trained by different losses."""
        high_N1 = self.score_NC1.max(1, keepdims=True)
        total_N = np.log(np.exp(self.score_NC1 - high_N1).sum(1)) + high_N1[:, 0]
        return total_N - self.score_NC1[:, 0]


def probe(trained: Trained, scenario: str, steps: int) -> Probe:
    """Looks inside a trained metaCSR.

    Args:
        trained: metaCSR, or its network trained without Meta Learner.
        scenario: "cold" or "warm".
        steps: of adaptation.

    Raises:
        WorkdirError: the model is another one.
        NonFiniteError: somebody's adaptation diverges.
    """
    problem = trained.problem
    config = problem.config
    if config.train.model not in ("metacsr", "pretrain"):
        raise WorkdirError(
            f"{trained.workdir}: holds {config.train.model}, expected metacsr or pretrain"
        )
    network, learner, data = make_parts(problem.protocol, config)
    table = jax.jit(network.represent)(trained.params["representer"], data.inputs)
    table = table._replace(candidates=data.inputs.candidates)
    held_out, batch = scenario_batches(problem, scenario)
    item_NC1 = np.concatenate([held_out.target_N[:, None], held_out.negative_NC], axis=1)
    look = partial(make_look(network, learner, config), trained.params, table, adapt_steps=steps)
    found = _in_batches(look, batch, item_NC1, batch_size(config, adapt_steps=steps))
    for name in ("score_NC1", "similarity_NC1", "preference_ND", "shift_N"):
        array = getattr(found, name)
        bad_N = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad_N.any():
            raise NonFiniteError(
                f"{scenario}, {steps} adaptation steps: {name} of case {int(np.argmax(bad_N))} is NaN or infinite"
            )
    return found


def make_look(network: Network, learner: MetaLearner, config: Config) -> Callable[..., Any]:
    """Builds the jitted `(params, table, batch, item_BC1, adapt_steps) -> Probe` of one batch.

    Args:
        network: the model.
        learner: whose `serve` adapts.
        config: of the run.
    """

    def of_user(params, table, context_L, length, support, item_C1, adapt_steps):
        theta_2, s_1D, support, shift = learner.serve(
            params, table, support, context_L[None], length[None], adapt_steps
        )
        score_C1 = network.score_candidates(theta_2, table, s_1D, item_C1[None])[0]
        loss = sample_loss(network, config.loss, theta_2, table, support, "mean")
        return Probe(
            score_C1,
            table.vector_ID[item_C1] @ s_1D[0],
            s_1D[0],
            jnp.where(support.mask_K.any(), loss, jnp.nan),
            shift,
        )

    def look(params, table, batch: CaseBatch, item_BC1, adapt_steps: int) -> Probe:
        support = support_samples(batch, config, table.bias_I.shape[0])
        return jax.vmap(of_user, (None, None, 0, 0, 0, 0, None))(
            params, table, batch.context_BL, batch.length_B, support, item_BC1, adapt_steps
        )

    return jax.jit(look, static_argnames="adapt_steps")


def item_vectors(trained: Trained) -> np.ndarray:
    """Item vectors after diffusion, float32 [I, D]."""
    network, _, data = make_parts(trained.problem.protocol, trained.problem.config)
    table = jax.jit(network.represent)(trained.params["representer"], data.inputs)
    return np.asarray(jax.device_get(table.vector_ID))


def write_probe(path: Path, found: Probe) -> None:
    """Writes a probe as npz, whole or not at all."""
    write_whole(path, lambda file: np.savez(file, **found._asdict()))


def read_probe(path: str | os.PathLike) -> Probe:
    """Reads what `write_probe` wrote.

    Raises:
        WorkdirError: the file is missing or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Probe(*(arrays[name] for name in Probe._fields))
    except FileNotFoundError:
        raise WorkdirError(f"{path}: missing; expected what experiments.reproduce writes") from None
    except Exception as error:  # zipfile, zlib and key errors all mean the same here
        raise WorkdirError(
            f"{path}: {error}; expected arrays {', '.join(Probe._fields)}"
        ) from error


def _in_batches(look, batch: CaseBatch, item_NC1: np.ndarray, size: int) -> Probe:
    total, parts = len(item_NC1), []
    for start in range(0, total, size):
        stop = min(start + size, total)
        part = pad_batch(CaseBatch(*(array[start:stop] for array in batch)), size)
        item_BC1 = np.pad(item_NC1[start:stop], [(0, size - (stop - start)), (0, 0)])
        found = jax.device_get(look(part, item_BC1))
        parts.append(Probe(*(array[: stop - start] for array in found)))
    return Probe(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
