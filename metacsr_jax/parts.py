"""A meta-batch part by part, so that memory does not grow with it.

Dimension key: T tasks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metacsr_jax.config import MetaConfig
from metacsr_jax.parallel import mesh_size, split

CPU_SAMPLES = 512  # more at a time fall out of a CPU's caches (docs/performance.md)
DEVICE_SAMPLES = (
    16_384  # of a GPU or TPU; at 128 features, ten positions and 100 negatives a few GiB
)


def tasks_at_once(config: MetaConfig, samples: int, tasks: int) -> int:
    """How many tasks to differentiate together on each device of the mesh.

    A divisor of the device's tasks, at least 1, with at most `meta.samples_at_once` samples.

    Args:
        config: names the bound; 0 is the backend's.
        samples: of the whole meta-batch, support and query.
        tasks: T, a multiple of the mesh's devices.
    """
    devices = mesh_size()
    samples, tasks = samples // devices, tasks // devices
    bound = config.samples_at_once
    if not bound:
        bound = CPU_SAMPLES if jax.default_backend() == "cpu" else DEVICE_SAMPLES
    fitting = max(1, bound * tasks // samples)
    return max(size for size in range(1, min(fitting, tasks) + 1) if tasks % size == 0)


def mean_over_parts(function: Callable[[Any], Any], given_T: Any, size: int) -> Any:
    """Mean of `function` over parts of `size` along the first axis of the arrays, one part after another.

    Args:
        function: of a part; returns a tree of arrays that are means over the part.
        given_T: a tree of arrays that lead with [T].
        size: of a part on each device of the mesh, a divisor of the device's share of T.
    """
    tasks, devices = jax.tree.leaves(given_T)[0].shape[0], mesh_size()
    if size * devices == tasks:
        return function(given_T)

    def parted(array):  # each device keeps the tasks it has
        shares = array.reshape(devices, -1, size, *array.shape[1:])
        return jnp.moveaxis(shares, 0, 1).reshape(-1, devices * size, *array.shape[1:])

    parts = split(jax.tree.map(parted, given_T), axis=1)
    of_part = jax.eval_shape(function, jax.tree.map(lambda a: a[0], parts))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), of_part)

    def add(total, part):
        return jax.tree.map(
            lambda a, b: a + b * (size * devices / tasks), total, function(part)
        ), None

    return jax.lax.scan(add, zeros, parts)[0]
