"""A log's file, whatever it is wrapped in: file, directory, zip, gz, tar.gz."""

import contextlib
import gzip
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metacsr_jax.errors import DataError

_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
_BROKEN += (RuntimeError, NotImplementedError)  # encrypted, unknown compression
_SUFFIXES = (".dat", ".data", ".csv", ".tsv", ".parquet", ".json", ".jsonl", ".inter", ".txt")


class Source(NamedTuple):
    """One plain file to read."""

    file: Path  # on disk, not compressed
    place: str  # how errors name it: ml-1m.zip/ml-1m/ratings.dat
    name: str  # of the data set, from the outermost path
    scratch: Path  # a directory that lives as long as the source does


@contextlib.contextmanager
def opened(path: str | Path, preferred: Sequence[str]) -> Iterator[Source]:
    """Finds the log in `path` and unpacks it, in a stream, where it is packed.

    Args:
      path: a file, a directory, or a zip, gz or tar.gz as the publisher gives it.
      preferred: names of members to look for, best first; failing these, the only file that looks
        like a table is taken.

    Yields:
      The plain file. What was unpacked is deleted at the end.

    Raises:
      DataError: if nothing is there, the archive is broken, or holds no or several candidates.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or directory; expected a log")
    with tempfile.TemporaryDirectory(prefix="metacsr-") as scratch:
        file, place = _unpack(path, path.name, Path(scratch), preferred)
        if file.stat().st_size == 0:
            raise DataError(f"{place}: the file is empty; expected a log")
        yield Source(file, place, _stem(path.resolve().name), Path(scratch))


def _unpack(path: Path, place: str, scratch: Path, preferred: Sequence[str]) -> tuple[Path, str]:
    """Follows directories and wrappers down to a plain file."""
    if path.is_dir():
        members = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        member = _choose(members, place, preferred)
        return _unpack(path / member, f"{place}/{member}", scratch, preferred)
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic[:2] == b"PK":
        extract, kind = _from_zip, "zip"
    elif magic[:2] == b"\x1f\x8b" and path.name.endswith((".tar.gz", ".tgz")):
        extract, kind = _from_tar, "tar.gz"
    elif magic[:2] == b"\x1f\x8b":
        extract, kind = _from_gzip, "gz"
    elif path.suffix in (".zip", ".gz", ".tgz"):
        raise DataError(
            f"{place}: starts with {magic!r}; expected a {path.suffix} archive (an error page?)"
        )
    else:
        return path, place
    target = Path(tempfile.mkdtemp(dir=scratch))
    try:
        member = extract(path, place, target, preferred)
    except _BROKEN as error:
        raise DataError(
            f"{place}: broken {kind} archive ({error}); expected a whole one: download it again"
        ) from error
    inner = place if kind == "gz" else f"{place}/{member}"
    return _unpack(target / PurePosixPath(member).name, inner, scratch, preferred)


def _from_zip(path: Path, place: str, target: Path, preferred: Sequence[str]) -> str:
    """Copies the chosen member out of a zip; its checksum is verified on the way."""
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        member = _choose(names, place, preferred)
        with archive.open(member) as source:
            _copy(source, target / PurePosixPath(member).name)
    return member


def _from_tar(path: Path, place: str, target: Path, preferred: Sequence[str]) -> str:
    """Copies the chosen member out of a tar.gz."""
    with tarfile.open(path, "r:gz") as archive:
        member = _choose([m.name for m in archive if m.isfile()], place, preferred)
        with archive.extractfile(member) as source:
            _copy(source, target / PurePosixPath(member).name)
    return member


def _from_gzip(path: Path, place: str, target: Path, preferred: Sequence[str]) -> str:
    """Unpacks a single compressed file."""
    del place, preferred
    with gzip.open(path) as source:
        _copy(source, target / path.stem)
    return path.stem


def _copy(source, target: Path) -> None:
    """Streams `source` into a new file."""
    with target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 22)


def _choose(members: Sequence[str], place: str, preferred: Sequence[str]) -> str:
    """The member that is the log."""
    visible = [m for m in members if not any(p.startswith((".", "__MACOSX")) for p in m.split("/"))]
    for wanted in preferred:
        found = [m for m in visible if PurePosixPath(m).name in (wanted, wanted + ".gz")]
        if found:
            return _only(found, place, f"one {wanted}")
    tables = [m for m in visible if m.removesuffix(".gz").endswith(_SUFFIXES)]
    return _only(tables, place, f"one of {', '.join(preferred)}, or one table alone")


def _only(found: Sequence[str], place: str, expected: str) -> str:
    """The single element of `found`."""
    if len(found) != 1:
        listing = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
        raise DataError(
            f"{place}: {len(found)} candidate files ({listing or 'none'}); expected {expected}. "
            "Give the path of the file itself"
        )
    return found[0]


def _stem(name: str) -> str:
    """A path's name without its extensions."""
    for suffix in (".gz", ".tar", ".tgz", ".zip", *_SUFFIXES):
        name = name.removesuffix(suffix)
    return name
