"""The rivals of metaCSR in small: a configuration each, and a work directory trained once a session."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import trained_once

from metacsr_jax import presets, settings
from metacsr_jax.config import Config
from metacsr_jax.sections import COUNTING

# Nothing is planted: no order, no taste. What beats popularity here has seen what it should not.
LOG = {
    "synthetic.users": 600,
    "synthetic.items": 120,
    "synthetic.series": 4,
    "synthetic.groups": 2,
    "synthetic.mean_events": 16.0,
    "synthetic.predictability": 0.9,
    "synthetic.taste": False,
    "synthetic.transitions": False,
    "protocol.num_negatives": 30,
    "protocol.regular_fraction": 0.5,
    "protocol.max_support": 4,
    "protocol.warm_support": 3,
    "model.dim": 16,
    "model.max_length": 5,
    "evaluation.adapt_steps": "0,1",
    "evaluation.batch": 100,
    "evaluation.bootstrap": 20,
}
# Long enough to learn a planted order where there is one.
SMALL: dict[str, dict[str, Any]] = {
    "bpr": {"train.steps": 20, "bpr.rate": 0.01, "bpr.batch": 512, "bpr.adapt_rate": 1.0},
    "lstm": {"train.steps": 6, "lstm.rate": 0.01, "lstm.batch": 128},
    "csan": {"train.steps": 6, "csan.rate": 0.01, "csan.batch": 128},
    "melu": {"train.steps": 10, "melu.inner_rate": 0.1, "melu.outer_rate": 0.01},
    "metacs-l": {"train.steps": 10, "metacs.inner_rate": 0.1, "metacs.outer_rate": 0.01},
    "metacs-dnn": {"train.steps": 10, "metacs.inner_rate": 0.1, "metacs.outer_rate": 0.01},
    "sml": {
        "train.pretrain_steps": 4,
        "train.steps": 4,
        "sml.periods": 4,
        "sml.repeats": 2,
        "sml.hidden": 32,
    },
    "metacf-ngcf": {
        "train.steps": 4,
        "metacf.width": 8,
        "metacf.layers": 2,
        "metacf.inner_steps": 1,
    },
    "pretrain": {"train.pretrain_steps": 60, "train.steps": 20, "tasks.pretrain_batch": 128}
    | {"model.attention_dim": 0, "model.compress": 0, "model.hidden": 16, "tasks.tasks": 8},
    "gru4rec": {"train.steps": 10, "gru4rec.rate": 0.01, "gru4rec.batch": 32, "gru4rec.window": 10},
    "sasrec": {"train.steps": 10, "sasrec.rate": 0.01, "sasrec.batch": 32, "sasrec.window": 10},
    "sasrec-gbce": {"train.steps": 10, "sasrec.rate": 0.01, "sasrec.batch": 32}
    | {"sasrec.window": 10, "sasrec.negatives": 16},
    **{name: {"train.steps": 0} for name in COUNTING},
}
ADAPTING = tuple(name for name in SMALL if name not in COUNTING)
QUICK = ("bpr", "metacs-l", "gru4rec", *COUNTING)


def kinds(names):
    """Parameters of a test over rivals; those that compile for long are marked slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


# Validation and saving cost more than these epochs: once, at the end.
CHUNK = {
    "train.chunk": 2,
    "train.validate_every": 100,
    "train.save_every": 100,
    "train.patience": 0,
}


def rival_config(model: str, changes: Mapping[str, Any] | None = None) -> Config:
    """A tiny configuration of a rival on a log without a plant."""
    given = LOG | CHUNK | SMALL[model] | dict(changes or {})
    return settings.replace(presets.preset("synthetic/tuned", model), given)


@functools.cache
def trained_rival(model: str) -> Path:
    """A finished work directory, not to be changed."""
    return trained_once(f"rival-{model}", rival_config(model))
