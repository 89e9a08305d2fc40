"""Sections of the configuration, and which of them a model reads."""

import dataclasses

from metacsr_jax.config import Config

SECTIONS = {
    field.name: field.type for field in dataclasses.fields(Config) if field.name != "preset"
}
EVERYBODY = (
    "data",
    "synthetic",
    "protocol",
    "train",
    "evaluation",
)  # sections that all models read
SIZES = ("dim", "max_length")  # of the section `model`, which all read; the rest of it is metaCSR's
OWN_SECTIONS: dict[str, tuple[str, ...]] = {
    "metacsr": ("model", "tasks", "loss", "meta", "optimizer"),
    "bpr": ("bpr",),
    "lstm": ("lstm",),
    "csan": ("csan",),
    "melu": ("melu",),
    "metacs-l": ("metacs",),
    "metacs-dnn": ("metacs",),
    "sml": ("sml",),
    "metacf-ngcf": ("metacf",),
    "pretrain": ("model", "tasks", "loss", "meta", "optimizer"),
    "gru4rec": ("gru4rec",),
    "sasrec": ("sasrec",),
    "sasrec-gbce": ("sasrec",),
    "random": (),
    "popular": (),
    "popular-first": (),
    "repeat": (),
    "itemknn": ("itemknn",),
    "ease": ("ease",),
    "markov": ("markov",),
}
TWO_PHASES = ("metacsr", "pretrain", "sml")  # those that `train.pretrain_steps` means something to
# Models that count or solve in closed form: no steps of training.
COUNTING = ("random", "popular", "popular-first", "repeat", "itemknn", "ease", "markov")


def fields(section: str) -> list[str]:
    """Names of the settings of a section."""
    return [field.name for field in dataclasses.fields(SECTIONS[section])]


def is_read(config: Config, section: str, name: str) -> bool:
    """Whether the configured model reads a setting."""
    if section in EVERYBODY or (section == "model" and name in SIZES):
        return True
    return section in OWN_SECTIONS[config.train.model]


def own_rates(model: str) -> list[str]:
    """Names of the rates that a model reads."""
    return [
        f"{section}.{name}"
        for section in OWN_SECTIONS[model]
        for name in fields(section)
        if name == "rate" or name.endswith("_rate")
    ]
