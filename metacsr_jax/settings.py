"""Settings as text: `section.name=value` overrides, dictionaries for config.json, and checks of what belongs together."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError

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


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Applies `section.name=value` texts in turn and checks the result.

    Args:
        config: to start from.
        assignments: for instance "meta.inner_steps=2" or "evaluation.adapt_steps=0,1,5".

    Raises:
        ConfigError: an unknown section or setting (the nearest names are given), or a value of the wrong type or outside its choices.
    """
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"setting {assignment!r}: expected section.name=value")
        values[name.strip()] = text.strip()
    return replace(config, values)


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """Sets settings by dotted name; texts are parsed by the setting's type. Raises ConfigError as `override`."""
    for name, value in values.items():
        section_name, dot, field_name = name.partition(".")
        if not dot or section_name not in SECTIONS or field_name not in _fields(section_name):
            raise ConfigError(f"unknown setting {name!r}; {_nearest(name)}")
        section = getattr(config, section_name)
        kind = typing.get_type_hints(type(section))[field_name]
        parsed = _parse(name, kind, value)
        section = dataclasses.replace(section, **{field_name: parsed})
        config = dataclasses.replace(config, **{section_name: section})
    check(config)
    return config


def renamed(config: Config, preset: str) -> Config:
    """The same settings under a preset's name."""
    return dataclasses.replace(config, preset=preset)


def to_dict(config: Config) -> dict[str, Any]:
    """The settings that the configured model reads, as nested dictionaries of plain values, for config.json."""
    content: dict[str, Any] = {"preset": config.preset}
    for section, values in dataclasses.asdict(config).items():
        if section == "preset":
            continue
        read = {name: value for name, value in values.items() if is_read(config, section, name)}
        if read:
            content[section] = read
    return content


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
        for name in _fields(section)
        if name == "rate" or name.endswith("_rate")
    ]


def from_dict(content: Mapping[str, Any]) -> Config:
    """Reads `to_dict`'s form back; settings that are missing take their defaults. Raises ConfigError for unknown ones."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"expected sections of settings by name, not {content!r}")
    config = Config(preset=str(content.get("preset", "")))
    values = {
        f"{section}.{name}": value
        for section, fields in content.items()
        if section != "preset"
        for name, value in _mapping(section, fields).items()
    }
    return replace(config, values)


def differences(one: Config, other: Config) -> list[str]:
    """Settings in which two configurations differ, as `name: this, that` texts; the preset's name does not count."""
    lines = []
    for section in SECTIONS:
        for name in _fields(section):
            here, there = (
                getattr(getattr(one, section), name),
                getattr(getattr(other, section), name),
            )
            if here != there:
                lines.append(f"{section}.{name}: {here!r}, {there!r}")
    return lines


def check(config: Config) -> None:
    """Refuses settings out of range or at odds with each other.

    Raises:
        ConfigError: names the setting, its value and what was expected.
    """
    for name, low, high in _RANGES:
        section, field = name.split(".")
        value = getattr(getattr(config, section), field)
        if not low <= value <= high:
            upper = "" if math.isinf(high) else f" to {high:g}"
            raise ConfigError(f"{name}={value}: expected {low:g}{upper or ' or more'}")
    _check_read(config)
    train, model, meta = config.train, config.model, config.meta
    own = OWN_SECTIONS[train.model]
    for field in ("pretrain_steps", "steps", "validate_every", "save_every"):
        if getattr(train, field) % train.chunk:
            raise ConfigError(
                f"train.{field}={getattr(train, field)}: expected a multiple of train.chunk={train.chunk}"
            )
    _check_length(config)
    if model.encoder == "transformer" and model.dim % model.heads:
        raise ConfigError(
            f"model.dim={model.dim}: expected a multiple of model.heads={model.heads}"
        )
    if meta.method == "none" and meta.inner_steps != 1:
        raise ConfigError(
            "meta.method=none has no inner loop: meta.inner_steps has no meaning, leave it at 1"
        )
    if "sasrec" in own and model.dim % config.sasrec.heads:
        raise ConfigError(
            f"model.dim={model.dim}: expected a multiple of sasrec.heads={config.sasrec.heads}"
        )
    if train.model == "pretrain" and meta.method != "none":
        raise ConfigError(
            f"meta.method={meta.method}: train.model=pretrain is the network without an inner loop, expected none"
        )
    for section in {"tasks", "lstm", "csan"} & set(own):
        shortest = getattr(config, section).min_length
        if shortest > model.max_length:
            raise ConfigError(
                f"{section}.min_length={shortest}: expected at most model.max_length={model.max_length}"
            )
    sml, rounds = config.sml, (config.sml.periods + 1) // 2 * config.sml.repeats
    if train.model == "sml" and train.steps != rounds:
        raise ConfigError(
            f"train.steps={train.steps}: expected {rounds}, sml.repeats={sml.repeats} for each of the periods "
            f"after the first half of sml.periods={sml.periods}"
        )
    if "group" in config.evaluation.adapt_per and train.model not in ("metacsr", "pretrain"):
        raise ConfigError("evaluation.adapt_per=group: only metacsr and pretrain adapt by group")
    if config.protocol.new_min > config.protocol.new_max:
        raise ConfigError("protocol.new_min: expected at most protocol.new_max")
    choices = {"scenarios": ("cold", "warm"), "adapt_per": ("user", "group")}
    for field, allowed in choices.items():
        given = getattr(config.evaluation, field)
        if not given or set(given) - set(allowed):
            raise ConfigError(f"evaluation.{field}={given}: expected some of {', '.join(allowed)}")
    if min(config.evaluation.adapt_steps, default=-1) < 0:
        raise ConfigError(
            f"evaluation.adapt_steps={config.evaluation.adapt_steps}: expected 0 or more, some"
        )


def _check_length(config: Config) -> None:
    """Refuses lengths of training that a model has no use for."""
    train = config.train
    if train.model in COUNTING:
        if train.steps or train.pretrain_steps:
            raise ConfigError(
                f"train.steps={train.steps}, train.pretrain_steps={train.pretrain_steps}: "
                f"train.model={train.model} counts, expected 0 of both"
            )
    elif train.model in TWO_PHASES:
        if train.pretrain_steps + train.steps == 0:
            raise ConfigError("train.steps=0 and train.pretrain_steps=0: nothing to train")
    elif train.pretrain_steps:
        raise ConfigError(
            f"train.pretrain_steps={train.pretrain_steps}: train.model={train.model} has no pre-training, expected 0"
        )
    elif not train.steps:
        raise ConfigError("train.steps=0: nothing to train")
    if train.model == "sml" and train.patience:
        raise ConfigError(
            f"train.patience={train.patience}: train.model=sml goes through all of its periods, expected 0"
        )


def _check_read(config: Config) -> None:
    """Refuses settings that would be without effect: the sections of other models."""
    default = Config()
    for section in SECTIONS:
        for name in _fields(section):
            value = getattr(getattr(config, section), name)
            if value != getattr(getattr(default, section), name) and not is_read(
                config, section, name
            ):
                read = ", ".join((*EVERYBODY, *OWN_SECTIONS[config.train.model]))
                raise ConfigError(
                    f"{section}.{name}={value}: train.model={config.train.model} does not read it; "
                    f"it reads {read}, and {' and '.join(f'model.{size}' for size in SIZES)}"
                )


_INF = math.inf
_RANGES = (
    ("synthetic.predictability", 0, 1),
    ("protocol.regular_fraction", 0, 1),
    ("protocol.validation_fraction", 1e-6, 0.9),
    ("protocol.time_quantile", 0, 1),
    ("protocol.keep_new", 2, _INF),
    ("protocol.num_negatives", 1, _INF),
    ("protocol.max_support", 0, _INF),
    ("protocol.warm_support", 0, _INF),
    ("model.dim", 1, _INF),
    ("model.max_length", 1, _INF),
    ("model.hops", 1, _INF),
    ("model.attention_dim", 0, _INF),
    ("model.compress", 0, _INF),
    ("model.hidden", 0, _INF),
    ("model.layers", 1, _INF),
    ("model.heads", 1, _INF),
    ("model.dropout", 0, 0.99),
    ("model.input_dropout", 0, 0.99),
    ("tasks.tasks", 1, _INF),
    ("tasks.way", 1, _INF),
    ("tasks.support", 1, _INF),
    ("tasks.query", 1, _INF),
    ("tasks.min_length", 1, _INF),
    ("tasks.early", 0, 1),
    ("tasks.pretrain_batch", 1, _INF),
    ("loss.negatives", 1, _INF),
    ("loss.label_smoothing", 0, 0.99),
    ("meta.inner_steps", 0, _INF),
    ("meta.inner_rate", 1e-12, _INF),
    ("optimizer.rate", 1e-12, _INF),
    ("optimizer.rates_rate", 0, _INF),
    ("optimizer.pretrain_rate", 0, _INF),
    ("optimizer.warmup", 0, _INF),
    ("optimizer.weight_decay", 0, _INF),
    ("optimizer.clip", 0, _INF),
    ("bpr.rate", 1e-12, _INF),
    ("bpr.batch", 1, _INF),
    ("bpr.regularisation", 0, _INF),
    ("bpr.init_scale", 1e-12, _INF),
    ("bpr.adapt_rate", 0, _INF),
    ("bpr.adapt_negatives", 1, _INF),
    *(
        (f"{section}.{name}", low, high)
        for section in ("lstm", "csan")
        for name, low, high in (
            ("rate", 1e-12, _INF),
            ("batch", 1, _INF),
            ("negatives", 1, _INF),
            ("min_length", 1, _INF),
            ("dropout", 0, 0.99),
            ("weight_decay", 0, _INF),
            ("clip", 1e-12, _INF),
            ("adapt_rate", 0, _INF),
        )
    ),
    *(
        (f"{section}.{name}", low, high)
        for section in ("gru4rec", "sasrec")
        for name, low, high in (
            ("rate", 1e-12, _INF),
            ("batch", 1, _INF),
            ("window", 1, _INF),
            ("early", 0, 1),
            ("negatives", 1, _INF),
            ("calibration", 0, 1),
            ("dropout", 0, 0.99),
            ("weight_decay", 0, _INF),
            ("clip", 1e-12, _INF),
            ("adapt_rate", 0, _INF),
        )
    ),
    ("sasrec.layers", 1, _INF),
    ("sasrec.heads", 1, _INF),
    ("markov.lags", 1, _INF),
    ("markov.shrink", 0, _INF),
    ("markov.decay", 0, 1),
    ("itemknn.neighbours", 0, _INF),
    ("itemknn.shrink", 0, _INF),
    ("ease.regularisation", 1e-6, _INF),
    ("ease.items", 1, 50_000),  # a dense inverse: 60 GB and hours
    *(
        (f"{section}.{name}", low, _INF)
        for section in ("melu", "metacs")
        for name, low in (
            ("outer_rate", 1e-12),
            ("inner_rate", 1e-12),
            ("inner_steps", 0),
            ("tasks", 1),
            ("support", 1),
            ("query", 1),
            ("negatives", 1),
        )
    ),
    ("melu.hidden", 1, _INF),
    ("melu.id_dropout", 0, 1),
    ("sml.periods", 2, _INF),
    ("sml.repeats", 1, _INF),
    ("sml.channels", 1, _INF),
    ("sml.channels_out", 1, _INF),
    ("sml.hidden", 1, _INF),
    ("sml.table_rate", 1e-12, _INF),
    ("sml.table_batch", 1, _INF),
    ("sml.table_decay", 0, _INF),
    ("sml.transfer_rate", 1e-12, _INF),
    ("sml.transfer_batch", 1, _INF),
    ("sml.transfer_decay", 0, _INF),
    ("metacf.width", 1, _INF),
    ("metacf.layers", 1, 3),  # more would let a user's own edges reach its scores
    ("metacf.dropout", 0, 0.99),
    ("metacf.tasks", 1, _INF),
    ("metacf.support", 1, _INF),
    ("metacf.query", 1, _INF),
    ("metacf.negatives", 1, _INF),
    ("metacf.inner_steps", 0, _INF),
    ("metacf.inner_rate", 1e-12, _INF),
    ("metacf.rates_rate", 0, _INF),
    ("metacf.potential", -1, _INF),
    ("metacf.potential_weight", 0, 1),
    ("metacf.outer_rate", 1e-12, _INF),
    ("metacf.regularisation", 0, _INF),
    ("metacf.clip", 1e-12, _INF),
    ("train.seed", 0, 2**32 - 1),
    ("train.pretrain_steps", 0, _INF),
    ("train.steps", 0, _INF),
    ("train.chunk", 1, _INF),
    ("train.validate_every", 1, _INF),
    ("train.save_every", 1, _INF),
    ("train.patience", 0, _INF),
    ("train.keep", 1, _INF),
    ("evaluation.batch", 1, _INF),
    ("evaluation.bootstrap", 1, _INF),
    ("evaluation.group_size", 1, _INF),
)


def _fields(section: str) -> list[str]:
    return [field.name for field in dataclasses.fields(SECTIONS[section])]


def _mapping(section: str, fields: Any) -> Mapping[str, Any]:
    if not isinstance(fields, Mapping):
        raise ConfigError(f"section {section!r}: expected settings by name, not {fields!r}")
    return fields


def _nearest(name: str) -> str:
    known = [f"{section}.{field}" for section in SECTIONS for field in _fields(section)]
    last = name.rpartition(".")[2]
    close = [full for full in known if full.rpartition(".")[2] == last]
    close += [full for full in difflib.get_close_matches(name, known, 3, 0.5) if full not in close]
    return f"nearest: {', '.join(close[:3])}" if close else f"sections: {', '.join(SECTIONS)}"


def _parse(name: str, kind: Any, value: Any) -> Any:
    """A value of the setting's type from text or from JSON."""
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ConfigError(f"{name}={value!r}: expected one of {', '.join(choices)}{hint}")
        return value
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"{name}={value!r}: expected a list, separated by commas")
        return tuple(
            _parse(name, element, part.strip() if isinstance(part, str) else part) for part in parts
        )
    return _parse_scalar(name, kind, value)


def _parse_scalar(name: str, kind: Any, value: Any) -> Any:
    described = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[
        kind
    ]
    error = ConfigError(f"{name}={value!r}: expected {described}")
    if kind is bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() not in known:
            raise error
        return known[str(value).lower()]
    if kind is str:
        if not isinstance(value, str):
            raise error
        return value
    if isinstance(value, bool | types.NoneType):
        raise error
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise error from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise error
    return kind(number)
