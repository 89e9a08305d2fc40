"""What `metacsr_jax.tune` searches for each model: ranges around what the methods' papers and this project found to matter."""

from typing import NamedTuple

Choice = str | int | float


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: lowest.
        high: highest.
        log: uniform in the logarithm instead of the value.
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


Space = dict[str, Range | tuple[Choice, ...]]


def _rate(low: float, high: float) -> Range:
    return Range(low, high, log=True)


def _windows(section: str) -> Space:
    """What models that read windows have in common."""
    return {
        f"{section}.rate": _rate(3e-4, 5e-3),
        f"{section}.dropout": Range(0.0, 0.6),
        f"{section}.weight_decay": _rate(1e-5, 0.1),
        f"{section}.loss": ("bpr", "softmax"),
        f"{section}.batch": (256, 512, 1024),
        f"{section}.adapt_rate": _rate(1e-3, 1.0),
    }


def _causal(section: str) -> Space:
    """What GRU4Rec and SASRec have in common; the loss is what tells SASRec's two forms apart."""
    return {
        f"{section}.rate": _rate(3e-4, 5e-3),
        f"{section}.schedule": ("constant", "cosine"),
        f"{section}.dropout": Range(0.0, 0.6),
        f"{section}.weight_decay": _rate(1e-5, 0.1),
        f"{section}.window": (10, 20, 50),
        f"{section}.early": Range(0.0, 0.5),
        f"{section}.batch": (64, 128, 256),
        f"{section}.adapt_rate": _rate(1e-3, 1.0),
    }


def _few_shot(section: str) -> Space:
    """What the user-wise meta-learners have in common."""
    return {
        f"{section}.outer_rate": _rate(3e-4, 1e-2),
        f"{section}.inner_rate": _rate(1e-2, 20.0),
        f"{section}.inner_steps": Range(1, 5, whole=True),
        f"{section}.negatives": Range(1, 8, whole=True),
        f"{section}.support": (5, 9),
        f"{section}.loss": ("bce", "bpr"),
    }


_NETWORK: Space = {
    # Few events are learnt by heart in a hundred steps; more than a trial has time for ends with it.
    "train.pretrain_steps": (10, 50, 150, 400, 1300),
    "optimizer.pretrain_rate": _rate(5e-4, 5e-3),
    "optimizer.weight_decay": _rate(1e-4, 0.1),
    "model.dropout": Range(0.0, 0.6),
    "model.input_dropout": Range(0.0, 0.4),
    "model.hidden": (128, 256, 512),
    "model.compress": (0, 32, 64),
    "tasks.pretrain_batch": (1024, 2048, 4096),
    "tasks.early": Range(0.0, 0.5),
    "meta.inner_rate": _rate(1e-3, 1.0),
}

SPACES: dict[str, Space] = {
    "metacsr": {
        **_NETWORK,
        "optimizer.rate": _rate(1e-4, 2e-3),
        "optimizer.rates_rate": _rate(3e-3, 0.1),
    },
    "pretrain": {**_NETWORK, "optimizer.rate": _rate(1e-4, 2e-3)},
    "bpr": {
        "bpr.rate": _rate(3e-4, 1e-2),
        "bpr.regularisation": _rate(1e-6, 1e-2),
        "bpr.adapt_rate": _rate(0.1, 20.0),
        "bpr.adapt_negatives": Range(1, 30, whole=True),
        "bpr.start": ("mean", "zero"),
    },
    "lstm": {**_windows("lstm"), "lstm.tied": (True, False)},
    "csan": {**_windows("csan"), "csan.activation": ("tanh", "sigmoid")},
    "melu": {
        **_few_shot("melu"),
        "melu.id_dropout": Range(0.25, 1.0),
        "melu.hidden": (32, 64, 128),
    },
    "metacs-l": _few_shot("metacs"),
    "metacs-dnn": _few_shot("metacs"),
    "sml": {
        "sml.table_rate": _rate(1e-3, 3e-2),
        "sml.table_decay": _rate(1e-7, 1e-3),
        "sml.transfer_rate": _rate(1e-4, 3e-3),
        "sml.transfer_decay": _rate(1e-5, 1e-2),
        "sml.hidden": (128, 512),
    },
    "metacf-ngcf": {
        "metacf.outer_rate": _rate(3e-4, 1e-2),
        "metacf.inner_rate": _rate(1e-2, 3.0),
        "metacf.rates_rate": _rate(1e-2, 0.3),
        "metacf.layers": Range(1, 3, whole=True),
        "metacf.potential_weight": Range(0.0, 0.5),
        "metacf.regularisation": _rate(1e-6, 1e-3),
        "metacf.tasks": (32, 128),
    },
    "gru4rec": _causal("gru4rec"),
    "sasrec": {**_causal("sasrec"), "sasrec.layers": (1, 2, 3), "sasrec.heads": (1, 2, 4)},
    "sasrec-gbce": {
        **_causal("sasrec"),
        "sasrec.layers": (1, 2, 3),
        "sasrec.heads": (1, 2, 4),
        "sasrec.calibration": Range(0.0, 1.0),
        "sasrec.negatives": (64, 256, 1024),
    },
    "random": {},
    "popular": {},
    "popular-first": {},
    "repeat": {},
    "itemknn": {
        "itemknn.neighbours": (0, 20, 50, 100, 200, 500),
        "itemknn.shrink": Range(0.0, 100.0),
    },
    "ease": {"ease.regularisation": _rate(10.0, 10_000.0)},
    "markov": {
        "markov.lags": Range(1, 20, whole=True),
        "markov.shrink": _rate(0.1, 100.0),
        "markov.decay": Range(0.3, 1.0),
    },
}
