"""The rivals of metaCSR in small: a configuration each, and a work directory trained once a session."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny import LOG, session_directory, train

from metacsr_jax import presets, settings
from metacsr_jax.config import Config

SMALL: dict[str, dict[str, Any]] = {
    "bpr": {"bpr.batch": 256, "bpr.adapt_negatives": 3},
    "lstm": {"lstm.batch": 128},
    "csan": {"csan.batch": 128},
    "melu": {"melu.tasks": 8, "melu.hidden": 8},
    "metacs-l": {"metacs.tasks": 8},
    "metacs-dnn": {"metacs.tasks": 8},
    "sml": {
        "sml.periods": 4,
        "sml.repeats": 2,
        "sml.hidden": 16,
        "sml.table_batch": 64,
        "sml.transfer_batch": 64,
        "train.pretrain_steps": 2,
    },
    "metacf-ngcf": {
        "metacf.width": 8,
        "metacf.tasks": 8,
        "metacf.layers": 2,
        "metacf.inner_steps": 1,
        "metacf.support": 4,
        "metacf.query": 4,
    },
    "random": {},
    "popular": {},
    "markov": {},
}
COUNTING = ("random", "popular", "markov")
ADAPTING = tuple(name for name in SMALL if name not in COUNTING)
STEPS = {"train.steps": 4, "train.validate_every": 2, "train.save_every": 2, "train.chunk": 2}


def rival_config(model: str, changes: Mapping[str, Any] | None = None) -> Config:
    """A tiny configuration of a rival on the tiny synthetic log."""
    steps = {"train.steps": 0} if model in COUNTING else STEPS
    given = LOG | steps | SMALL[model] | dict(changes or {})
    return settings.replace(presets.preset("synthetic/tuned", model), given)


@functools.cache
def trained_rival(model: str) -> Path:
    """A finished work directory, not to be changed."""
    workdir = session_directory() / f"rival-{model}"
    assert train(workdir, rival_config(model)).result.status == "finished"
    return workdir
