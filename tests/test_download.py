"""Downloads, against a server on the loopback, and the table that follows them."""

import contextlib
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from metacsr_jax.data import download
from metacsr_jax.data.datasets import DATASETS, DataSet, comparison
from metacsr_jax.data.download import fetch
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import DataError

_DAT = "".join(f"{u}::{i}::{1 + (u + i) % 5}::{100 + i}\n" for u in (1, 2, 3) for i in (1, 2, 3))


def _zip(text=_DAT, padding=0):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        # `ZipInfo` has a fixed date: the same bytes at every call.
        archive.writestr(zipfile.ZipInfo("ml-1m/ratings.dat"), text)
        archive.writestr(zipfile.ZipInfo("ml-1m/README"), "." * padding)
    return stream.getvalue()


class _Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path, honours ranges, and can hang up half-way."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.starts: list[int] = []  # byte from which each answer began
        self.hang_ups: list[int] = []  # bytes to send before each hang-up, used up one by one

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name, wanted = self.path[1:], self.headers.get("Range")
        self.server.requests.append((name, wanted))
        if name not in self.server.files:
            return self.send_error(404)
        body = self.server.files[name]
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = 0
        if wanted and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if name.endswith(".zip") and self.server.hang_ups:
            body = body[: self.server.hang_ups.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args):
        del args


@pytest.fixture
def server():
    with contextlib.closing(_Server()) as running:
        running.close = running.server_close
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _publish(server, body, md5=None):
    md5 = hashlib.md5(body).hexdigest() if md5 is None else md5
    server.files = {"ml-1m.zip": body, "ml-1m.zip.md5": f"MD5 (ml-1m.zip) = {md5}\n".encode()}
    return DataSet(server.url("ml-1m.zip"), server.url("ml-1m.zip.md5"))


def _resumed_at(server) -> int:
    name, wanted = server.requests[-1]
    assert name == "ml-1m.zip"
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    assert server.starts[-1] == start
    return start


def test_a_file_is_fetched_once(server, tmp_path):
    dataset = _publish(server, _zip())
    path = fetch(dataset, tmp_path / "data", progress=False)
    assert path == tmp_path / "data" / "ml-1m.zip"
    assert path.read_bytes() == _zip()
    fetch(dataset, tmp_path / "data", progress=False)
    assert [name for name, _ in server.requests].count("ml-1m.zip") == 1
    assert [p.name for p in path.parent.iterdir()] == ["ml-1m.zip"]


def test_a_damaged_copy_is_fetched_again(server, tmp_path):
    dataset = _publish(server, _zip())
    (tmp_path / "ml-1m.zip").write_bytes(b"PK damaged")
    assert fetch(dataset, tmp_path, progress=False).read_bytes() == _zip()


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    body = _zip(padding=300_000)
    dataset = _publish(server, body)
    server.hang_ups = [200_000]
    assert fetch(dataset, tmp_path, progress=False).read_bytes() == body
    assert 0 < _resumed_at(server) <= 200_000


def test_a_later_run_goes_on_where_the_first_gave_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    body = _zip(padding=300_000)
    dataset = _publish(server, body)
    server.hang_ups = [200_000]
    with pytest.raises(DataError, match=r"stopped after \d+ bytes.*run again"):
        fetch(dataset, tmp_path, progress=False)
    assert fetch(dataset, tmp_path, progress=False).read_bytes() == body
    assert 0 < _resumed_at(server) <= 200_000


def test_a_file_that_changed_meanwhile_starts_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    server.hang_ups = [200_000]
    with pytest.raises(DataError, match="stopped"):
        fetch(_publish(server, _zip(padding=300_000)), tmp_path, progress=False)
    newer = _zip(_DAT * 2, padding=300_000)
    assert fetch(_publish(server, newer), tmp_path, progress=False).read_bytes() == newer


def test_bytes_of_unknown_origin_are_not_gone_on_with(server, tmp_path):
    dataset = _publish(server, _zip())
    (tmp_path / "ml-1m.zip.part").write_bytes(b"something")
    assert fetch(dataset, tmp_path, progress=False).read_bytes() == _zip()
    assert server.requests[-1] == ("ml-1m.zip", None)


def test_all_bytes_there_but_not_yet_moved(server, tmp_path):
    body = _zip()
    dataset = _publish(server, body)
    (tmp_path / "ml-1m.zip.part").write_bytes(body)
    (tmp_path / "ml-1m.zip.etag").write_text(f'"{hashlib.md5(body).hexdigest()}"')
    assert fetch(dataset, tmp_path, progress=False).read_bytes() == body
    assert server.requests[-1] == ("ml-1m.zip", f"bytes={len(body)}-")


def test_a_wrong_checksum_is_refused_and_nothing_is_left(server, tmp_path):
    dataset = _publish(server, _zip(), md5="0" * 32)
    with pytest.raises(DataError, match=f"expected md5 {'0' * 32}"):
        fetch(dataset, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_file_without_checksum_is_refused(server, tmp_path):
    dataset = _publish(server, _zip(), md5="none")
    with pytest.raises(DataError, match="expected an md5 of 32 hex digits"):
        fetch(dataset, tmp_path, progress=False)


def test_the_log_inside_is_checked_where_only_its_checksum_is_published(server, tmp_path):
    text = b"u\t2009-05-04T23:08:57Z\t\tartist\t\ttrack\n"
    member = tarfile.TarInfo("k/userid-timestamp-artid-artname-traid-traname.tsv")
    member.size = len(text)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(text))
    server.files = {"k.tar.gz": stream.getvalue()}
    good = DataSet(server.url("k.tar.gz"), content_md5=hashlib.md5(text).hexdigest())
    assert fetch(good, tmp_path / "good", progress=False).name == "k.tar.gz"
    with pytest.raises(DataError, match="the log inside has md5"):
        fetch(good._replace(content_md5="0" * 32), tmp_path / "bad", progress=False)
    assert list((tmp_path / "bad").iterdir()) == []


def test_a_missing_file_is_named(server, tmp_path):
    with pytest.raises(DataError, match="answered 404"):
        fetch(DataSet(server.url("gone.zip")), tmp_path, progress=False)
    with pytest.raises(DataError, match=r"gone.md5: cannot get the checksum"):
        fetch(DataSet(server.url("gone.zip"), server.url("gone.md5")), tmp_path, progress=False)


def test_our_counts_stand_above_the_papers():
    log = Interactions.from_ids([1, 1, 2, 3], [1, 2, 1, 3], [1, 2, 3, 4], [4, 5, 4, 3], name="log")
    lines = [line.split() for line in comparison(log, 4.0, ["movielens-1m"]).splitlines()]
    assert lines[1][-4:] == ["3", "3", "4", f"{4 / (3 * 3):.3%}"]
    assert lines[2][-4:] == ["2", "2", "3", f"{3 / (2 * 2):.3%}"]
    assert lines[3][-4:] == ["6,040", "3,952", "575,281", "2.410%"]
    assert len(comparison(log, 4.0).splitlines()) == len(lines) + 2


def test_papers_densities_are_those_of_its_counts():
    for dataset in DATASETS.values():
        if dataset.paper:
            users, items, events, density = dataset.paper
            assert events / (users * items) == pytest.approx(density, rel=0.06)


_PREPARE = """
import sys
from absl import app
from metacsr_jax.data.datasets import DATASETS, DataSet
from tools import prepare_data
DATASETS["movielens-1m"] = DATASETS["movielens-1m"]._replace(url={url!r}, md5_url={md5_url!r})
app.run(prepare_data.main)
"""


def _prepare(dataset, *flags):
    script = _PREPARE.format(url=dataset.url, md5_url=dataset.md5_url)
    command = [sys.executable, "-c", script, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prepare_data_downloads_and_compares(server, tmp_path):
    done = _prepare(_publish(server, _zip()), "--dataset=movielens-1m", f"--root={tmp_path}")
    assert done.returncode == 0, done.stderr
    good = [(u, i) for u in (1, 2, 3) for i in (1, 2, 3) if 1 + (u + i) % 5 >= 4]
    users, items = len({u for u, _ in good}), len({i for _, i in good})
    density = f"{len(good) / (users * items):.3%}"
    lines = [line.split()[-4:] for line in done.stdout.splitlines()]
    assert [str(users), str(items), str(len(good)), density] in lines
    assert lines[-1] == ["6,040", "3,952", "575,281", "2.410%"]
    assert (tmp_path / "ml-1m.zip").exists()


def test_prepare_data_reports_what_is_wrong_with_a_local_copy(server, tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("1::2::3::4\n1::2::3\n")
    done = _prepare(DataSet(server.url("none")), f"--path={path}")
    assert done.returncode == 1 and "error: ratings.dat:2: found '1::2::3'" in done.stderr
    done = _prepare(DataSet(server.url("none")), f"--path={path}", "--skip_malformed")
    assert done.returncode == 0 and "1 malformed" in done.stdout
