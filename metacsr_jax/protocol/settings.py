"""Which protocol settings are possible at all."""

from metacsr_jax.config import ProtocolConfig
from metacsr_jax.errors import ConfigError


def check_config(config: ProtocolConfig) -> None:
    """Refuses numbers out of range.

    Args:
        config: the rules.

    Raises:
        ConfigError: naming the setting, its value and its range.
    """
    rules = {
        "regular_fraction": ("strictly between 0 and 1", 0 < config.regular_fraction < 1),
        "time_quantile": ("strictly between 0 and 1", 0 < config.time_quantile < 1),
        "validation_fraction": ("at least 0 and below 1", 0 <= config.validation_fraction < 1),
        "training_share": ("above 0 and at most 1", 0 < config.training_share <= 1),
        "new_min": ("at least 1", config.new_min >= 1),
        "new_max": ("at least new_min and 2", config.new_max >= max(2, config.new_min)),
        "keep_new": ("at least 2", config.keep_new >= 2),
        "num_negatives": ("at least 1", config.num_negatives >= 1),
    }
    choices = {
        "tie_policy": ("hash", "file"),
        "user_split": ("quantile", "range", "time"),
        "catalogue": ("positive", "declared"),
        "mask_seen": ("auto", "yes", "no"),
    }
    for name, allowed in choices.items():
        rules[name] = ("one of " + ", ".join(allowed), getattr(config, name) in allowed)
    for name, (expected, holds) in rules.items():
        if not holds:
            raise ConfigError(f"protocol.{name}={getattr(config, name)!r}: expected {expected}")
