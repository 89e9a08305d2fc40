"""Times of repeated calls, and what a device can do at most."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MATRIX = {"cpu": 2048, "other": 8192}  # rows of the product behind the ceiling
COPY_BYTES = {"cpu": 2**28, "other": 2**31}


class Timing(NamedTuple):
    """Seconds of calls.

    Attributes:
        median, low, high: the middle, the 10 % and the 90 % quantile.
        calls: how many were timed.
    """

    median: float
    low: float
    high: float
    calls: int


class Ceilings(NamedTuple):
    """What the device reached in this run.

    Attributes:
        flops: multiplications and additions a second, of a large float32 matrix product at the benchmark's precision.
        bytes: read and written a second, of a large copy.
    """

    flops: float
    bytes: float


def summary(seconds: Sequence[float]) -> Timing:
    """Median and quantiles."""
    low, median, high = np.quantile(seconds, (0.1, 0.5, 0.9))
    return Timing(float(median), float(low), float(high), len(seconds))


def time_calls(
    call: Callable[[], Any], *, seconds: float = 2.0, least: int = 3, most: int = 100
) -> Timing:
    """Calls until `seconds` have passed, between `least` and `most` times, after one call that is not counted."""
    jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < least or (sum(taken) < seconds and len(taken) < most):
        started = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - started)
    return summary(taken)


def measure_ceilings() -> Ceilings:
    """Times a large product and a large copy; the best of their calls counts."""
    kind = "cpu" if jax.default_backend() == "cpu" else "other"
    size, count = MATRIX[kind], COPY_BYTES[kind] // 4
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    x = jnp.ones(count, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return Ceilings(
        2 * size**3 / time_calls(lambda: product(a, a)).low,
        2 * 4 * count / time_calls(lambda: copy(x)).low,
    )
