"""The evaluation protocol: built once per log and seed, stored with hashes, read by all models."""

from metacsr_jax.protocol.artefact import load_protocol, save_protocol
from metacsr_jax.protocol.build import build_protocol
from metacsr_jax.protocol.held_out import cases, training_events
from metacsr_jax.protocol.record import (
    EXCLUDED,
    NEW,
    REGULAR,
    ROLE_NAMES,
    SCENARIOS,
    VALIDATION,
    Cases,
    Protocol,
    Training,
)
from metacsr_jax.protocol.settings import check_config

__all__ = [
    "EXCLUDED",
    "NEW",
    "REGULAR",
    "ROLE_NAMES",
    "SCENARIOS",
    "VALIDATION",
    "Cases",
    "Protocol",
    "Training",
    "build_protocol",
    "cases",
    "check_config",
    "load_protocol",
    "save_protocol",
    "training_events",
]
