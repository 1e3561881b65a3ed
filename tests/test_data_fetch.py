"""fetch: from a server on this machine, whole, broken off, damaged, and out of space."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from compactnets import data
from compactnets.data import fetching
from data_toys import md5, pack, toy_home, write_cifar10, write_registry


class Server(ThreadingHTTPServer):
    """Serves one body; `cut` breaks the first answer off after so many bytes."""

    body = b""
    cut: int | None = None
    status = 200
    resumes = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked[len("bytes=") : -1]) if asked and self.server.resumes else 0
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        body = self.server.body[start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(body if cut is None else body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch, server) -> Path:
    """An empty data folder, whose registry points to the server's small CIFAR-10."""
    folder = toy_home(tmp_path, monkeypatch)
    one = write_cifar10(tmp_path / "made", per_batch=40)
    archive = pack(tmp_path / "made" / one["path"], tmp_path / "cifar.tar.gz")
    server.body = archive.read_bytes()
    address = f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
    one["archive"] = {"url": address, "sum": md5(archive), "bytes": len(server.body)}
    write_registry(tmp_path, [one])
    return folder


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_fetch_brings_the_set_and_leaves_nothing_else(home, server):
    with pytest.raises(data.DataMissing, match="compactnets data fetch cifar10"):
        data.load("cifar10")
    assert data.fetch("cifar10", progress=False) == home / "cifar-10-batches-py"
    assert len(data.load("cifar10")) == 200
    assert visible(home) == ["cifar-10-batches-py"]
    assert list((home / ".downloads").iterdir()) == []
    assert not list(home.glob(".unpacking*"))
    assert data.fetch("cifar10", progress=False) == home / "cifar-10-batches-py"
    assert server.asked == [None]  # a set that is there is not fetched again


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_leaves_no_set_and_the_next_fetch_completes_it(home, server, resumes):
    server.cut, server.resumes = len(server.body) // 2, resumes
    with pytest.raises(data.FetchError, match="run the same command again"):
        data.fetch("cifar10", progress=False)
    assert visible(home) == []
    assert data.find("cifar10") is None
    (part,) = (home / ".downloads").iterdir()
    assert part.suffix == ".part"
    had = part.stat().st_size
    assert had > 0
    data.fetch("cifar10", progress=False)
    assert server.asked == [None, f"bytes={had}-"]
    assert len(data.load("cifar10", "test")) == 40
    assert list((home / ".downloads").iterdir()) == []


def test_what_a_killed_fetch_left_half_unpacked_goes_with_the_next(home):
    (home / ".unpacking-cifar10-killed" / "cifar-10-batches-py").mkdir(parents=True)
    data.fetch("cifar10", progress=False)
    assert not list(home.glob(".unpacking*"))


def test_a_part_that_is_already_whole_is_used(home, server):
    part = home / ".downloads" / "cifar.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(server.body)
    data.fetch("cifar10", progress=False)
    assert data.verify("cifar10").checked == 7


def test_an_archive_with_another_sum_is_refused_and_not_kept(home, server):
    server.body = server.body[:-1] + b"?"
    with pytest.raises(data.ChecksumError, match="not the archive"):
        data.fetch("cifar10", progress=False)
    assert visible(home) == []
    assert list((home / ".downloads").iterdir()) == []


def test_a_refusal_of_the_server_is_reported(home, server):
    server.status = 503
    with pytest.raises(data.FetchError, match="503"):
        data.fetch("cifar10", progress=False)
    assert visible(home) == []


def test_missing_files_are_added_and_present_ones_left_alone(home):
    root = data.fetch("cifar10", progress=False)
    (root / "data_batch_4").unlink()
    (root / "mine.txt").write_text("keep")
    kept = (root / "data_batch_1").stat().st_mtime_ns
    data.fetch("cifar10", progress=False)
    assert data.verify("cifar10").checked == 7
    assert (root / "mine.txt").read_text() == "keep"
    assert (root / "data_batch_1").stat().st_mtime_ns == kept


def test_a_damaged_file_in_place_stops_the_fetch_and_is_not_overwritten(home, server):
    root = data.fetch("cifar10", progress=False)
    (root / "data_batch_2").write_bytes(b"mine")
    (root / "data_batch_5").unlink()
    with pytest.raises(data.ChecksumError, match="data_batch_2 is damaged"):
        data.fetch("cifar10", progress=False)
    assert (root / "data_batch_2").read_bytes() == b"mine"
    assert len(server.asked) == 1


def test_a_full_disk_is_noticed_before_the_download(home, server, monkeypatch):
    usage = type("Usage", (), {"free": 1500})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(data.NotEnoughSpace, match=r"needs .* MB in .*COMPACTNETS_DATA"):
        data.fetch("cifar10", progress=False)
    assert server.asked == []
    assert visible(home) == []


def test_a_set_without_an_address_is_placed_by_hand(home, tmp_path):
    one = write_cifar10(tmp_path / "other")
    write_registry(tmp_path, [one])
    with pytest.raises(ValueError, match="place it by hand"):
        data.fetch("cifar10", progress=False)


def test_an_archive_that_would_write_elsewhere_is_refused(home, server, tmp_path):
    import io
    import tarfile

    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    one = write_cifar10(tmp_path / "other")
    address = f"http://127.0.0.1:{server.server_port}/evil.tar.gz"
    one["archive"] = {"url": address, "sum": md5(path), "bytes": 1}
    write_registry(tmp_path, [one])
    server.body = path.read_bytes()
    with pytest.raises(data.ChecksumError, match="outside"):
        data.fetch("cifar10", progress=False)
    assert not (tmp_path / "escaped").exists()
    assert visible(home) == []


def test_a_zip_archive_is_unpacked_too(home, server, tmp_path):
    import shutil

    one = write_cifar10(tmp_path / "other")
    made = Path(
        shutil.make_archive(str(tmp_path / "cifar"), "zip", tmp_path / "other", one["path"])
    )
    address = f"http://127.0.0.1:{server.server_port}/cifar.zip"
    one["archive"] = {"url": address, "sum": md5(made), "bytes": None}
    write_registry(tmp_path, [one])
    server.body = made.read_bytes()
    data.fetch("cifar10", progress=False)
    assert len(data.load("cifar10", "test")) == 20
