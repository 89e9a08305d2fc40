"""Logs of events: readers of published forms, and the record that the rest of the library reads."""

from metacsr_jax.data.interactions import Interactions
from metacsr_jax.data.readers import FORMATS, read

__all__ = ["FORMATS", "Interactions", "read"]
