"""The protocol on disk: one .npy per array, and `manifest.json` with the SHA-256 of each.

The manifest is written last, so that a directory with one is whole.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from metacsr_jax.config import ProtocolConfig
from metacsr_jax.errors import WorkdirError
from metacsr_jax.protocol.record import SCENARIOS, Protocol

FORMAT = 1  # of the directory; a reader refuses any other
_FIELDS = ("item_ids", "user_ids", "role_U", "offset_U1", "item_E", "time_E")
_OPTIONAL = ("item_features", "user_features")
# Settings that came later: at these values a protocol is, and hashes as, one from before them.
_LATER = {"training_share": 1.0}


def save_protocol(protocol: Protocol, directory: str | os.PathLike) -> None:
    """Writes the artefact.

    Args:
        protocol: what `build_protocol` returned.
        directory: created where missing; a protocol in it is replaced.
    """
    root = pathlib.Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    final = root / "manifest.json"
    final.unlink(missing_ok=True)
    for name, array in arrays(protocol).items():
        np.save(root / f"{name}.npy", array, allow_pickle=False)
    manifest = {
        "format": FORMAT,
        "name": protocol.name,
        "mask_seen": protocol.mask_seen,
        "config": dataclasses.asdict(protocol.config),
        **protocol.manifest,
    }
    partial = root / "manifest.json.partial"
    partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, final)


def load_protocol(directory: str | os.PathLike) -> Protocol:
    """Reads an artefact and verifies every hash.

    Args:
        directory: written by `save_protocol`.

    Returns:
        A protocol equal to the one saved.

    Raises:
        WorkdirError: the directory has no whole protocol, or an array is not the one written.
    """
    root = pathlib.Path(directory)
    try:
        stored = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkdirError(f"{root}: no manifest.json; expected a whole protocol here") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkdirError(f"{root / 'manifest.json'}: not JSON ({error})") from None
    found = stored.pop("format", None) if isinstance(stored, dict) else None
    if found != FORMAT:
        raise WorkdirError(f"{root / 'manifest.json'}: format {found!r}; expected {FORMAT}")
    try:
        name, mask_seen = stored.pop("name"), stored.pop("mask_seen")
        config = ProtocolConfig(**stored.pop("config"))
        expected, expected_all = stored["sha256"], stored["sha256_all"]
        loaded = {key: _load_array(root, key, expected[key]) for key in expected}
        missing = [key for key in (*_FIELDS, *map(_negative_name, SCENARIOS)) if key not in loaded]
    except (KeyError, TypeError, AttributeError) as error:
        raise WorkdirError(f"{root / 'manifest.json'}: {error}; expected a protocol's") from None
    if missing:
        raise WorkdirError(f"{root}: array {missing[0]} is missing from the manifest")
    if _hash_all(expected, config, name, mask_seen) != expected_all:
        raise WorkdirError(
            f"{root / 'manifest.json'}: sha256_all does not match the settings and arrays;"
            " the manifest was changed"
        )
    return Protocol(
        config=config,
        name=name,
        negative_NC={scenario: loaded[_negative_name(scenario)] for scenario in SCENARIOS},
        mask_seen=mask_seen,
        manifest=stored,
        **{key: loaded[key] for key in _FIELDS},
        **{key: loaded.get(key) for key in _OPTIONAL},
    )


def with_hashes(protocol: Protocol) -> Protocol:
    """The same protocol with `sha256` per array and `sha256_all` in its manifest.

    `sha256_all` covers the arrays, the settings, the name and `mask_seen`.
    """
    hashes = {name: hash_array(array) for name, array in arrays(protocol).items()}
    total = _hash_all(hashes, protocol.config, protocol.name, protocol.mask_seen)
    manifest = {**protocol.manifest, "sha256": hashes, "sha256_all": total}
    return dataclasses.replace(protocol, manifest=manifest)


def arrays(protocol: Protocol) -> dict[str, np.ndarray]:
    """Every array of the protocol by the name it is stored and hashed under."""
    named = {name: getattr(protocol, name) for name in (*_FIELDS, *_OPTIONAL)}
    for scenario, negative_NC in protocol.negative_NC.items():
        named[_negative_name(scenario)] = negative_NC
    return {name: array for name, array in named.items() if array is not None}


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def _negative_name(scenario: str) -> str:
    """Name of a scenario's negatives on disk."""
    return f"negative_{scenario}"


def _hash_all(hashes: Mapping[str, str], config: ProtocolConfig, name: str, mask_seen: bool) -> str:
    """One SHA-256 over everything that decides what a model sees."""
    settings = {
        field: value
        for field, value in dataclasses.asdict(config).items()
        if field not in _LATER or value != _LATER[field]
    }
    parts = [sorted(hashes.items()), settings, name, mask_seen]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _load_array(root: pathlib.Path, name: str, expected: str) -> np.ndarray:
    """One array, verified."""
    path = root / f"{name}.npy"
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise WorkdirError(f"{path}: array {name} is missing") from None
    except (ValueError, EOFError, OSError) as error:
        raise WorkdirError(f"{path}: array {name} cannot be read ({error})") from None
    found = hash_array(array)
    if found != expected:
        raise WorkdirError(
            f"{path}: array {name} has SHA-256 {found[:12]}...; expected {expected[:12]}..., as in"
            " manifest.json"
        )
    return array
