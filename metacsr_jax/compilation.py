"""Compiled programs kept between runs."""

import os
from pathlib import Path

import jax

MIN_SECONDS = 0.5  # programs that compile faster are not worth a file


def cache_compilations() -> None:
    """Turns on JAX's persistent compilation cache in `cache_directory`, unless the user has set one (or switched it off) already."""
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def cache_directory() -> Path:
    """`$METACSR_CACHE_DIR`, else `$XDG_CACHE_HOME/metacsr_jax`, else `~/.cache/metacsr_jax`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("METACSR_CACHE_DIR") or Path(home) / "metacsr_jax")
