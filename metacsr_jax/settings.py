"""Settings as text: `section.name=value` overrides, and dictionaries for config.json."""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from metacsr_jax.checks import check
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError
from metacsr_jax.sections import SECTIONS, fields, is_read


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
        if not dot or section_name not in SECTIONS or field_name not in fields(section_name):
            raise ConfigError(f"unknown setting {name!r}; {_nearest(name)}")
        section = getattr(config, section_name)
        kind = _types(type(section))[field_name]
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


def from_dict(content: Mapping[str, Any]) -> Config:
    """Reads `to_dict`'s form back; settings that are missing take their defaults. Raises ConfigError for unknown ones."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"expected sections of settings by name, not {content!r}")
    config = Config(preset=str(content.get("preset", "")))
    values = {
        f"{section}.{name}": value
        for section, given in content.items()
        if section != "preset"
        for name, value in _mapping(section, given).items()
    }
    return replace(config, values)


def differences(one: Config, other: Config) -> list[str]:
    """Settings in which two configurations differ, as `name: this, that` texts; the preset's name does not count."""
    lines = []
    for section in SECTIONS:
        for name in fields(section):
            here, there = (
                getattr(getattr(one, section), name),
                getattr(getattr(other, section), name),
            )
            if here != there:
                lines.append(f"{section}.{name}: {here!r}, {there!r}")
    return lines


@functools.cache
def _types(section: type) -> dict[str, Any]:
    """Types of a section's settings; evaluated once, they are looked up for every setting of every run."""
    return typing.get_type_hints(section)


def _mapping(section: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"section {section!r}: expected settings by name, not {given!r}")
    return given


def _nearest(name: str) -> str:
    known = [f"{section}.{field}" for section in SECTIONS for field in fields(section)]
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
        parts = value
        if isinstance(value, str):
            parts = value.split(",") if value.strip() else ()
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
