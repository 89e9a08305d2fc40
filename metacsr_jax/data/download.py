"""Data sets fetched from their publishers.

A download that was cut goes on where it stopped (HTTP range requests, guarded by the server's
ETag), and what arrives is checked against the publisher's checksum where there is one.
"""

import hashlib
import re
import time
from pathlib import Path

import pooch
import requests
import tqdm

from metacsr_jax.data import lastfm
from metacsr_jax.data.archive import opened
from metacsr_jax.data.datasets import DataSet
from metacsr_jax.errors import DataError

_CHUNK = 1 << 16  # bytes; what is lost at most when the connection is cut
_ATTEMPTS = 3
_TIMEOUT = 30  # seconds without a byte


def fetch(dataset: DataSet, directory: str | Path, *, progress: bool = True) -> Path:
    """Downloads a data set unless a good copy is there.

    Args:
      dataset: an entry of `DATASETS`, or any other.
      directory: where the file goes, under its own name; made if missing.
      progress: show a bar.

    Returns:
      The path of the file, as published.

    Raises:
      DataError: if the server does not give the file, or it is not the one the checksum is of.
    """
    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    name = dataset.url.rpartition("/")[2]
    expected = _published_md5(dataset.md5_url) if dataset.md5_url else None

    fresh = False

    def download(url: str, output_file: str, _: pooch.Pooch) -> None:
        nonlocal fresh
        fresh = True
        _resume(url, directory / f"{name}.part", progress=progress).replace(output_file)

    try:
        path = pooch.retrieve(
            dataset.url,
            known_hash=f"md5:{expected}" if expected else None,
            fname=name,
            path=directory,
            downloader=download,
        )
    except DataError:
        raise
    except ValueError as error:  # pooch's word for a wrong hash; the file is gone already
        raise DataError(
            f"{dataset.url}: what arrived is not the published file: expected md5 {expected} "
            f"({dataset.md5_url}). Run again, or give a local copy"
        ) from error
    if fresh and dataset.content_md5:
        with opened(path, lastfm.MEMBERS) as source:
            found = md5(source.file)
        if found != dataset.content_md5:
            Path(path).unlink()
            raise DataError(
                f"{dataset.url}: the log inside has md5 {found}; expected {dataset.content_md5}. "
                "Run again, or give a local copy"
            )
    return Path(path)


def md5(path: str | Path) -> str:
    """The MD5 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _published_md5(url: str) -> str:
    """The checksum in a publisher's .md5 file, whichever tool wrote it."""
    try:
        response = requests.get(url, timeout=_TIMEOUT)
        response.raise_for_status()
    except requests.RequestException as error:
        raise DataError(f"{url}: cannot get the checksum ({error})") from error
    found = re.search(r"\b[0-9a-fA-F]{32}\b", response.text)
    if not found:
        raise DataError(f"{url}: found {response.text[:60]!r}; expected an md5 of 32 hex digits")
    return found.group().lower()


def _resume(url: str, part: Path, *, progress: bool) -> Path:
    """Downloads `url` into `part`, going on from what is there; tries a few times."""
    for attempt in range(_ATTEMPTS):
        try:
            if _continue(url, part, progress=progress):
                part.with_suffix(".etag").unlink(missing_ok=True)
                return part
            reason = "the connection closed early"
        except requests.HTTPError as error:
            raise DataError(
                f"{url}: the server answered {error.response.status_code}; expected the file. "
                "Get it by hand and give its path"
            ) from error
        except requests.RequestException as error:
            reason = str(error)
        time.sleep(0.1 * 2**attempt)
    done = part.stat().st_size if part.exists() else 0
    raise DataError(
        f"{url}: stopped after {done} bytes in {part} ({reason}); run again to go on from there"
    )


def _continue(url: str, part: Path, *, progress: bool) -> bool:
    """One request for the bytes that are missing; whether all are there now."""
    tag_file = part.with_suffix(".etag")
    done = part.stat().st_size if part.exists() else 0
    tag = tag_file.read_text() if tag_file.exists() else ""
    # Without a tag the rest could be that of another file, so the download starts again. Encoding
    # is refused, since a range of a compressed answer is none of the file.
    headers = {"Accept-Encoding": "identity"}
    if done and tag:
        headers |= {"Range": f"bytes={done}-", "If-Range": tag}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # nothing after `done`: all was there, or it has changed
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(done):
                return True
            part.unlink()
            return False
        response.raise_for_status()
        resumed = response.status_code == 206
        done = done if resumed else 0
        tag_file.write_text(
            response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        )
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="B",
            unit_scale=True,
            desc=part.stem,
            disable=not progress,
        )
        with bar, part.open("ab" if resumed else "wb") as sink:
            for chunk in response.iter_content(_CHUNK):
                sink.write(chunk)
                bar.update(len(chunk))
        return total is None or part.stat().st_size == total
