"""Settings that are out of range or at odds with each other are refused before anything is built."""

import math

from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError
from metacsr_jax.neighbourhood import reads_part
from metacsr_jax.ranges import RANGES
from metacsr_jax.sections import (
    COUNTING,
    EVERYBODY,
    OWN_SECTIONS,
    SECTIONS,
    SIZES,
    TWO_PHASES,
    fields,
    is_read,
)


def check(config: Config) -> None:
    """Refuses settings out of range or at odds with each other.

    Raises:
        ConfigError: names the setting, its value and what was expected.
    """
    for name, low, high in RANGES:
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
    _check_drawn(config)
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


def _check_drawn(config: Config) -> None:
    """Refuses neighbourhoods, candidates and lazy tables where they would mean nothing, or everything."""
    model, loss = config.model, config.loss
    if loss.candidates and loss.name != "softmax":
        raise ConfigError(
            f"loss.candidates={loss.candidates}: loss.name={loss.name} ranks loss.negatives, expected 0"
        )
    if model.fan_out and (len(model.fan_out) != model.hops or min(model.fan_out) < 1):
        raise ConfigError(
            f"model.fan_out={model.fan_out}: expected a number of neighbours, 1 or more, for each of model.hops={model.hops}"
        )
    if model.fan_out and not model.diffusion:
        raise ConfigError(f"model.fan_out={model.fan_out}: model.diffusion=False has no neighbours")
    if config.optimizer.lazy and model.diffusion and not model.fan_out:
        raise ConfigError(
            "optimizer.lazy=True: diffusion over the whole graph uses every row, expected model.fan_out"
        )
    if reads_part(config) and loss.name == "softmax" and not loss.candidates:
        raise ConfigError(
            "loss.name=softmax ranks every item, so that a step uses every row: "
            "with model.fan_out or optimizer.lazy expected loss.candidates above 0, or another loss"
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
        for name in fields(section):
            value = getattr(getattr(config, section), name)
            if value != getattr(getattr(default, section), name) and not is_read(
                config, section, name
            ):
                read = ", ".join((*EVERYBODY, *OWN_SECTIONS[config.train.model]))
                raise ConfigError(
                    f"{section}.{name}={value}: train.model={config.train.model} does not read it; "
                    f"it reads {read}, and {' and '.join(f'model.{size}' for size in SIZES)}"
                )
