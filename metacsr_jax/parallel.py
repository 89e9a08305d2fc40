"""Many devices and many processes: one mesh, tasks split over all of it, tables replicated or split by rows.

The step's code is written for all tasks at once and says where they may be split; the compiler puts in the collectives. Validation,
evaluation and recommendation run on one device of each process. Every process reads, process 0 writes, and orbax saves from all.

Dimension key: T tasks or samples.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError

AXIS = "devices"
TABLES = ("item_embedding", "user_embedding")
# Rows of a split table are a multiple of it on any mesh, so that a checkpoint fits on other numbers of devices.
ROW_MULTIPLE = 64
SPLIT_MODELS = ("metacsr", "pretrain")  # the others train on one device


def connect(coordinator: str, processes: int, process_id: int) -> None:
    """Joins the processes of a job; before anything else of JAX is used.

    Args:
        coordinator: HOST:PORT at which process 0 listens.
        processes: how many there are.
        process_id: this one's number, from 0.

    Raises:
        ConfigError: the numbers make no sense, or the others cannot be reached.
    """
    if not 0 <= process_id < processes:
        raise ConfigError(f"process {process_id} of {processes}: expected 0 to {processes - 1}")
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"coordinator {coordinator!r}: {error}") from error


def make_mesh(config: Config, devices: int = 0) -> Mesh | None:
    """All devices in a row, or None where there is one, or where the model does not split.

    Args:
        config: tasks, pre-training batch and model of the run.
        devices: how many to use; 0: all, with several processes always all.

    Raises:
        ConfigError: more devices than there are, tasks that cannot be dealt out evenly, or several processes for a model that
            trains on one device.
    """
    there = jax.device_count()
    if devices > there:
        raise ConfigError(f"devices={devices}: there are {there}")
    if jax.process_count() > 1 and devices not in (0, there):
        raise ConfigError(f"devices={devices}: several processes use all {there}")
    count = devices or there
    if config.train.model not in SPLIT_MODELS:
        if jax.process_count() > 1:
            raise ConfigError(
                f"{config.train.model} trains on one device; several processes serve {', '.join(SPLIT_MODELS)}"
            )
        return None
    if count == 1:
        return None
    shares = {"tasks.tasks": config.tasks.tasks} if config.train.steps else {}
    if config.train.pretrain_steps:
        shares["tasks.pretrain_batch"] = config.tasks.pretrain_batch
    for name, size in shares.items():
        if size % count:
            raise ConfigError(
                f"{name}={size} on {count} devices: expected a multiple of {count}, or fewer devices"
            )
    if config.model.tables == "rows" and ROW_MULTIPLE % count:
        raise ConfigError(f"model.tables=rows on {count} devices: expected 2, 4, 8, 16, 32 or 64")
    return jax.make_mesh(
        (count,), (AXIS,), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:count]
    )


def mesh_size() -> int:
    """Devices of the mesh that is set; 1 without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def split(tree: Any, axis: int = 0) -> Any:
    """Deals an axis of all arrays out to the devices of the mesh that is set; without one nothing happens."""
    if mesh_size() == 1:
        return tree
    spec = PartitionSpec(*(None,) * axis, AXIS)
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, spec), tree)


def is_table(path: tuple, leaf: Any) -> str:
    """The name of the embedding table that a leaf of a state is, or is a moment of; empty for any other leaf."""
    names = {str(getattr(part, "key", "")) for part in path} & set(TABLES)
    return names.pop() if names and len(leaf.shape) == 2 else ""


def specs(tree: Any, tables: str) -> Any:
    """How each array of a state is split: not at all, but with `tables="rows"` the embedding tables and their moments by rows."""

    def of(path, leaf) -> PartitionSpec:
        rows = tables == "rows" and is_table(path, leaf)
        return PartitionSpec(AXIS) if rows else PartitionSpec()

    return jax.tree_util.tree_map_with_path(of, tree)


def shardings(tree: Any, mesh: Mesh | None, tables: str) -> Any:
    """Where each array of a state lies; without a mesh on the default device."""
    if mesh is None:
        alone = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: alone, tree)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, tables))


def pinned(tree: Any, tables: str) -> Any:
    """Keeps a state where it was, whatever the compiler would prefer; without a mesh nothing happens."""
    if mesh_size() == 1:
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs(tree, tables))


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Sets the mesh that `split` and `pinned` refer to."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays on this process's device, copied to every device of the mesh."""
    if mesh is None:
        return tree
    whole = NamedSharding(mesh, PartitionSpec())

    def copied(array):
        if jax.process_count() == 1:
            return jax.device_put(array, whole)
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(copied(jax.random.key_data(array)))
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, whole, lambda index: host[index])

    with jax.transfer_guard("allow"):
        return jax.tree.map(copied, tree)


def here(tree: Any, mesh: Mesh | None) -> Any:
    """Whole arrays on this process's first device, of arrays that lie on the mesh."""
    if mesh is None:
        return tree
    whole = NamedSharding(mesh, PartitionSpec())
    gathered = jax.jit(lambda tree: tree, out_shardings=whole)(tree)
    return jax.tree.map(lambda array: array.addressable_data(0), gathered)


def writes() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is up on any process; all of them call."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Process 0 goes through the body before the others enter it: what it writes there, they read."""
    if jax.process_count() > 1 and not writes():
        multihost_utils.sync_global_devices("first process has been")
    yield
    if jax.process_count() > 1 and writes():
        multihost_utils.sync_global_devices("first process has been")
