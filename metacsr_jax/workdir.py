"""The work directory: the interface between training, evaluation and recommendation.

config.json, manifest.json, protocol/, checkpoints/, metrics.jsonl, evaluation/, figures/, events/ (TensorBoard).
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from metacsr_jax import settings
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError, WorkdirError
from metacsr_jax.parallel import writes
from metacsr_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "jraph", "orbax-checkpoint", "numpy", "polars")


def open_workdir(path: str | os.PathLike, config: Config) -> Path:
    """Creates a work directory for a configuration, or opens the one that has it already.

    Args:
        path: the directory; parents are created.
        config: what is to be trained there.

    Returns:
        The absolute path.

    Raises:
        WorkdirError: it holds another configuration (the differing settings are named), or things that are not a work directory's.
    """
    workdir = Path(path).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise WorkdirError(f"{workdir}: is a file, expected a directory or nothing")
    if (workdir / "config.json").exists():
        different = settings.differences(read_config(workdir), config)
        # Where the first start failed (no such log, say), nothing is built that a corrected command could contradict.
        begun = (workdir / "protocol" / "manifest.json").exists() or (
            workdir / "checkpoints"
        ).exists()
        if different and begun:
            different.sort(
                key=lambda text: not text.startswith("train.model:")
            )  # it explains the others
            shown = "; ".join(different[:5])
            raise WorkdirError(
                f"{workdir}: belongs to another configuration (there, here): {shown}. "
                "Use another --workdir, or remove this one."
            )
        if different:
            write_json(workdir / "config.json", settings.to_dict(config))
        return workdir
    # A run killed while it made the directory leaves no more than the draft of config.json.
    if workdir.exists() and any(
        entry.name != ".config.json.partial" for entry in workdir.iterdir()
    ):
        raise WorkdirError(
            f"{workdir}: is not empty and has no config.json, so it is no work directory"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", settings.to_dict(config))
    return workdir


def read_config(path: str | os.PathLike) -> Config:
    """The configuration of a work directory.

    Raises:
        WorkdirError: there is none, or it cannot be read.
    """
    file = Path(path) / "config.json"
    try:
        return settings.from_dict(read_json(file))
    except ConfigError as error:
        raise WorkdirError(f"{file}: {error}") from error


def read_manifest(path: str | os.PathLike) -> dict[str, Any]:
    """manifest.json of a work directory; empty where training has not written one yet."""
    file = Path(path) / "manifest.json"
    return read_json(file) if file.exists() else {}


def update_manifest(path: str | os.PathLike, **entries: Any) -> dict[str, Any]:
    """Sets entries of manifest.json and returns the whole."""
    manifest = {**read_manifest(path), **entries}
    write_json(Path(path) / "manifest.json", manifest)
    return manifest


def provenance() -> dict[str, Any]:
    """What produced a result: versions, command, platform."""
    versions = {"metacsr_jax": __version__, "python": platform.python_version()}
    return {
        "versions": versions | {name: metadata.version(name) for name in PACKAGES},
        "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
        "platform": platform.platform(),
    }


def read_json(file: Path) -> Any:
    """Parses a JSON file.

    Raises:
        WorkdirError: it is missing or not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkdirError(
            f"{file}: missing; expected a work directory written by training"
        ) from None
    except ValueError as error:
        raise WorkdirError(f"{file}: {error}; expected JSON") from error


def write_json(file: Path, content: Any) -> None:
    """Writes JSON whole or not at all; of several processes, the first one."""
    if not writes():
        return
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def append_record(file: Path, record: Mapping[str, Any]) -> None:
    """Appends one line of JSON; of several processes, the first one."""
    if not writes():
        return
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def read_records(file: Path) -> list[dict[str, Any]]:
    """Lines of a JSON-lines file; a last line cut off by a kill is ignored, and no file is no records."""
    if not file.exists():
        return []
    records = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def truncate_records(file: Path, last_step: int) -> None:
    """Drops records of steps after `last_step`: what a killed run logged beyond its last checkpoint will be logged again."""
    if not writes() or not file.exists():
        return
    kept = [record for record in read_records(file) if record["step"] <= last_step]
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    os.replace(partial, file)
