"""The log that a configuration names."""

import dataclasses

from metacsr_jax.config import Config
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.data.readers import read
from metacsr_jax.data.synthetic import generate
from metacsr_jax.errors import ConfigError


def load_log(config: Config) -> Interactions:
    """Reads `data.path`, or generates the embedded log where that is empty.

    Raises:
        ConfigError: a preset for a real log has no path.
        DataError: the log cannot be read.
    """
    synthetic = config.preset.startswith("synthetic")
    if config.data.path:
        if synthetic:
            raise ConfigError(
                f"preset {config.preset!r} is for the embedded log, but data.path={config.data.path!r}; "
                "expected --preset=custom/tuned or that of a log"
            )
        return read(config.data.path, config.data)
    if not synthetic:
        raise ConfigError(
            f"preset {config.preset!r} needs a log: give --data=PATH (tools/prepare_data.py downloads public ones)"
        )
    log = generate(config.synthetic)
    return dataclasses.replace(log, name=config.data.name or log.name)
