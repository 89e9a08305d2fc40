"""Named configurations: `<log>/<variant>`, in departures from the defaults of `config.py`.

`paper` is section 4.1.2 as printed and as read in docs/reading.md. `tuned` is the loosened network of docs/reading.md with
what was chosen on validation users; new users had no part in any choice.
"""

import difflib
from typing import Any

from metacsr_jax import sections, settings
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError

# What the tuned presets share: no bottlenecks, the whole catalogue in the loss, one user per task.
TUNED: dict[str, Any] = {
    "model.node_relu": False,
    "model.node_norm": False,
    "model.node_residual": True,
    "model.distance": "learned",
    "model.attention_dim": 32,
    "model.readout_items": True,
    "model.compress": 64,
    "model.hidden": 512,
    "model.dropout": 0.3,
    "model.input_dropout": 0.1,
    "model.output_relu": False,
    "model.item_bias": True,
    "tasks.tasks": 128,
    "tasks.way": 1,
    "tasks.support": 8,
    "tasks.query": 8,
    "tasks.sampling": "newcomer",
    "tasks.early": 0.25,
    "tasks.user_weight": "events",
    "tasks.pretrain_batch": 2048,
    "loss.name": "softmax",
    "meta.method": "metasgd",
    "meta.inner_rate": 0.02,
    "meta.inner_reduction": "mean",
    "meta.adapted": "head",
    "optimizer.rate": 3e-4,
    "optimizer.rates_rate": 0.03,
    "optimizer.schedule": "cosine",
    "optimizer.warmup": 40,
    "optimizer.weight_decay": 0.01,
    "optimizer.decay": "decoupled",
    "optimizer.clip": 1.0,
    "train.pretrain_steps": 1300,
    "train.steps": 150,
}

# Validation chooses among as many numbers of steps as it does for the rivals.
ADAPT_STEPS: dict[str, Any] = {"evaluation.adapt_steps": (0, 1, 5, 10, 20)}

# Adapting by group of 15 is how the paper's tasks would meet new users; the sum over a support of another size is another step.
PAPER: dict[str, Any] = {"evaluation.adapt_per": ("user", "group")}

SMALL_CATALOGUE: dict[str, Any] = {
    "model.dim": 32,
    "model.attention_dim": 24,
    "model.compress": 0,
    "model.hidden": 64,
    "model.dropout": 0.2,
    "model.input_dropout": 0.0,
    "tasks.pretrain_batch": 512,
    "tasks.tasks": 32,
    "tasks.early": 0.0,
    "meta.inner_rate": 1.0,
    "optimizer.pretrain_rate": 4e-3,
    "optimizer.rate": 1e-3,
    "optimizer.rates_rate": 1e-3,
    "train.pretrain_steps": 300,
    "train.steps": 800,
    "train.validate_every": 100,
    "train.save_every": 100,
}

MOVIELENS: dict[str, Any] = {"data.name": "movielens-1m"}
LASTFM: dict[str, Any] = {"data.name": "lastfm-1week", "protocol.min_rating": 0.0}
AMAZON: dict[str, Any] = {"data.name": "amazon-video", "protocol.user_split": "range"}
# A twentieth of MovieLens-1M's events: as many passes over them take fewer steps.
FEW_EVENTS: dict[str, Any] = {"model.dropout": 0.5, "train.pretrain_steps": 150, "train.steps": 100}
# Few events a user: nothing to fill windows of eight support samples and eight queries.
SHORT_HISTORIES: dict[str, Any] = {"tasks.support": 3, "tasks.query": 3, "tasks.min_length": 1}

PRESETS: dict[str, dict[str, Any]] = {
    "synthetic/paper": {**PAPER, "data.name": "synthetic"},
    "synthetic/tuned": {**TUNED, **SMALL_CATALOGUE, "data.name": "synthetic"},
    "custom/paper": PAPER,
    "custom/tuned": {**TUNED, **ADAPT_STEPS},
    "movielens-1m/paper": {**PAPER, **MOVIELENS},
    "movielens-1m/tuned": {**TUNED, **ADAPT_STEPS, **MOVIELENS},
    "lastfm-1week/paper": {**PAPER, **LASTFM},
    "lastfm-1week/tuned": {**TUNED, **ADAPT_STEPS, **LASTFM, **FEW_EVENTS},
    "amazon-video/paper": {**PAPER, **AMAZON, "tasks.min_length": 1},
    "amazon-video/tuned": {**TUNED, **ADAPT_STEPS, **AMAZON, **FEW_EVENTS, **SHORT_HISTORIES},
}


# What a log sets whatever the model.
LOGS: dict[str, dict[str, Any]] = {
    "synthetic": {"data.name": "synthetic"},
    "custom": {},
    "movielens-1m": MOVIELENS,
    "lastfm-1week": LASTFM,
    "amazon-video": AMAZON,
}

# Rivals count epochs, each one dispatch, and stop when validation has not gained for five.
EPOCHS: dict[str, Any] = {
    "train.chunk": 1,
    "train.validate_every": 1,
    "train.save_every": 1,
    "train.patience": 5,
    **ADAPT_STEPS,
}
# Validation at five numbers of steps costs more than an epoch of tasks.
TASK_EPOCHS: dict[str, Any] = {**EPOCHS, "train.validate_every": 5, "train.patience": 3}
# One pass over all positions of a window is cheap, validation is not.
CAUSAL: dict[str, Any] = {"train.steps": 20, "train.validate_every": 5, "train.patience": 0}
COUNTED: dict[str, Any] = {**EPOCHS, "train.steps": 0, "evaluation.adapt_steps": (0,)}

# `paper`: the values of each method's own paper or code where it gives any. `tuned`: what was chosen on validation users of
# MovieLens-1M, the rate and number of adaptation steps above all; not a search at equal cost (docs/baselines.md).
RIVALS: dict[str, dict[str, Any]] = {
    "bpr/paper": {**EPOCHS, "train.steps": 100},
    "bpr/tuned": {
        **EPOCHS,
        "train.steps": 100,
        "bpr.adapt_negatives": 20,
        "bpr.adapt_rate": 3.0,
    },
    "lstm/paper": {**EPOCHS, "train.steps": 30},
    "lstm/tuned": {**EPOCHS, "train.steps": 14, "train.validate_every": 2, "lstm.loss": "softmax"},
    "csan/paper": {**EPOCHS, "train.steps": 30},
    "csan/tuned": {**EPOCHS, "train.steps": 4, "train.validate_every": 2, "csan.loss": "softmax"},
    "melu/paper": {**TASK_EPOCHS, "train.steps": 20},
    "melu/tuned": {
        **TASK_EPOCHS,
        "train.steps": 40,
        "melu.outer_rate": 1e-3,
        "melu.inner_rate": 3.0,
        "melu.inner_steps": 3,
        "melu.negatives": 4,
    },
    "metacs-l/paper": {**EPOCHS, "train.steps": 100},
    "metacs-l/tuned": {
        **TASK_EPOCHS,
        "train.steps": 40,
        "metacs.negatives": 4,
        "metacs.support": 9,
        "metacs.inner_rate": 10.0,
        "metacs.inner_steps": 3,
    },
    "metacs-dnn/paper": {**TASK_EPOCHS, "train.steps": 100},
    "metacs-dnn/tuned": {
        **TASK_EPOCHS,
        "train.steps": 40,
        "metacs.negatives": 4,
        "metacs.support": 9,
        "metacs.inner_rate": 3.0,
        "metacs.inner_steps": 3,
    },
    "sml/paper": {**EPOCHS, "train.patience": 0, "train.pretrain_steps": 10, "train.steps": 50},
    "sml/tuned": {
        **EPOCHS,
        "train.patience": 0,
        "train.pretrain_steps": 10,
        "train.steps": 10,
        "sml.repeats": 2,
    },
    "metacf-ngcf/paper": {**EPOCHS, "train.steps": 50},
    "metacf-ngcf/tuned": {**EPOCHS, "train.steps": 6, "metacf.tasks": 128},
    # One uniform negative per window; the original ranks against the other targets of the mini-batch.
    "gru4rec/paper": {**EPOCHS, "train.steps": 30, "gru4rec.loss": "bpr", "gru4rec.negatives": 1},
    "gru4rec/tuned": {**EPOCHS, **CAUSAL, "gru4rec.schedule": "cosine"},
    # Binary cross-entropy against one negative per window.
    "sasrec/paper": {
        **EPOCHS,
        "train.steps": 200,
        "sasrec.loss": "gbce",
        "sasrec.calibration": 0.0,
        "sasrec.negatives": 1,
        "sasrec.window": 200,
    },
    "sasrec/tuned": {**EPOCHS, **CAUSAL, "sasrec.schedule": "cosine"},
    "sasrec-gbce/paper": {
        **EPOCHS,
        "train.steps": 200,
        "sasrec.loss": "gbce",
        "sasrec.window": 200,
    },
    "sasrec-gbce/tuned": {
        **EPOCHS,
        **CAUSAL,
        "sasrec.schedule": "cosine",
        "sasrec.loss": "gbce",
    },
    **{f"{name}/{kind}": COUNTED for name in sections.COUNTING for kind in ("paper", "tuned")},
    "ease/tuned": {**COUNTED, "ease.regularisation": 1000.0},
}

# metaCSR's own network and training without the inner loop: what else differs from metaCSR's presets.
PRETRAIN: dict[str, Any] = {
    "meta.method": "none",
    **ADAPT_STEPS,
}


def preset(name: str, model: str = "metacsr") -> Config:
    """The configuration that a preset names for a model; a bare log name means its tuned variant.

    Args:
        name: `<log>/<variant>`.
        model: of `metacsr_jax.registry.MODELS`.

    Raises:
        ConfigError: there is no such preset or model; the nearest names are given.
    """
    full = name if "/" in name else f"{name}/tuned"
    if full not in PRESETS:
        near = difflib.get_close_matches(full, PRESETS, 3, 0.4)
        raise ConfigError(f"unknown preset {name!r}; nearest: {', '.join(near or PRESETS)}")
    log, _, variant = full.partition("/")
    values = PRESETS[full]
    if model == "pretrain":
        values = {**values, **PRETRAIN, "train.model": model}
    elif model != "metacsr":
        if f"{model}/{variant}" not in RIVALS:
            known = [
                "metacsr",
                "pretrain",
                *dict.fromkeys(rival.partition("/")[0] for rival in RIVALS),
            ]
            near = difflib.get_close_matches(model.lower(), known, 3, 0.4)
            raise ConfigError(f"unknown model {model!r}; nearest: {', '.join(near or known)}")
        values = {**LOGS[log], **RIVALS[f"{model}/{variant}"], "train.model": model}
    return settings.renamed(settings.replace(Config(), values), full)
