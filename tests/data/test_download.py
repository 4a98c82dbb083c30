import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tinygen.data import DataError
from tinygen.data.download import EMBEDDED, RemoteFile, cache_folder, data_folder, fetch
from tinygen.data.registry import DATASETS

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT. The first part of the path says with which fault."""

    def do_GET(self):
        fault = self.path.split("/")[1]
        self.server.seen.append((fault, self.headers.get("Range")))
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", "/good/file.bin")
            self.end_headers()
            return
        if fault == "missing":
            self.send_error(404)
            return
        body = {"wrong": CONTENT[::-1], "short": CONTENT[:1000]}.get(fault, CONTENT)
        wanted, start = self.headers.get("Range"), 0
        if wanted and fault != "no-ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        kind = "text/html; charset=utf-8" if fault == "web-page" else "application/gzip"
        self.send_header("Content-Type", kind)
        if fault != "no-length":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = len(body)
        if fault == "cut":  # every connection breaks after 100,000 bytes
            stop = start + 100_000
        elif fault == "dead":
            stop = start
        self.wfile.write(body[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def remote(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def make(*faults, checksum=f"sha256:{SHA256}"):
        urls = tuple(f"{server.address}/{fault}/file.bin" for fault in faults)
        return RemoteFile("set/file.bin", len(CONTENT), checksum, urls)

    return make


def folder_content(root):
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*.*")}


@pytest.mark.parametrize("fault", ["good", "redirect", "no-length", "no-ranges"])
def test_downloads_once(server, remote, tmp_path, fault):
    file = remote(fault)
    path = fetch(file, tmp_path)
    assert path == tmp_path / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    requests = len(server.seen)
    assert fetch(file, tmp_path) == path
    assert len(server.seen) == requests
    assert folder_content(tmp_path) == {"set/file.bin": len(CONTENT)}


def test_md5_is_understood(remote, tmp_path):
    checksum = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert fetch(remote("good", checksum=checksum), tmp_path).read_bytes() == CONTENT


def test_a_broken_connection_is_resumed(server, remote, tmp_path):
    assert fetch(remote("cut"), tmp_path).read_bytes() == CONTENT
    assert server.seen == [("cut", None), ("cut", "bytes=100000-"), ("cut", "bytes=200000-")]


@pytest.mark.parametrize("fault", ["good", "redirect"])
def test_an_earlier_part_is_continued(server, remote, tmp_path, fault):
    part = tmp_path / "set" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:123_456])
    assert fetch(remote(fault), tmp_path).read_bytes() == CONTENT
    assert server.seen[-1] == ("good", "bytes=123456-")
    assert not part.exists()


def test_a_server_without_ranges_starts_again(server, remote, tmp_path):
    part = tmp_path / "set" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    assert fetch(remote("no-ranges"), tmp_path).read_bytes() == CONTENT
    assert server.seen == [("no-ranges", "bytes=1000-")]


def test_a_whole_part_needs_no_request(server, remote, tmp_path):
    part = tmp_path / "set" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert fetch(remote("good"), tmp_path).read_bytes() == CONTENT
    assert server.seen == []


def test_a_dead_server_keeps_the_part(remote, tmp_path):
    part = tmp_path / "set" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:5000])
    with pytest.raises(DataError):
        fetch(remote("dead"), tmp_path)
    assert part.read_bytes() == CONTENT[:5000]


def test_mirrors_are_tried_in_order(server, remote, tmp_path):
    file = remote("missing", "web-page", "short", "wrong", "good", "dead")
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert [fault for fault, _ in server.seen] == file_faults(file)[:5]


def file_faults(file):
    return [url.split("/")[3] for url in file.urls]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "HTTP 404 Not Found"),
        ("web-page", "the server sent a web page instead of the file"),
        ("short", "the file has 1,000 bytes, expected 300,000"),
        ("dead", "the connection broke at 0 of 300,000 bytes"),
        ("wrong", f"wrong sha256, expected {SHA256}, got "),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(server, remote, tmp_path, fault, reason):
    with pytest.raises(DataError) as caught:
        fetch(remote(fault), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "cannot download file.bin (0.3 MB)" in message
    assert f"{server.address}/{fault}/file.bin: {reason}" in message
    assert f"put the file there by hand: {tmp_path / 'set' / 'file.bin'}" in message
    assert folder_content(tmp_path) == {}


def test_a_part_longer_than_the_file_there_is_given_up(server, remote, tmp_path):
    part = tmp_path / "set" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:2000])
    with pytest.raises(DataError, match="HTTP 416"):
        fetch(remote("short"), tmp_path)
    assert folder_content(tmp_path) == {}


def test_a_part_of_another_file_is_given_up(remote, tmp_path):
    part = tmp_path / "set" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="wrong sha256"):
        fetch(remote("good"), tmp_path)
    assert fetch(remote("good"), tmp_path).read_bytes() == CONTENT


def test_offline_names_address_and_folder(server, remote, tmp_path):
    file = RemoteFile("set/a.gz", 10, "sha256:0", ("http://127.0.0.1:1/a.gz",))
    with pytest.raises(DataError, match=r"http://127.0.0.1:1/a.gz: .*refused.*by hand: .*a\.gz$"):
        fetch(file, tmp_path)


def test_without_download_no_request_is_made(server, remote, tmp_path):
    with pytest.raises(DataError, match=r"file\.bin is not at hand .*by hand: .*file\.bin$"):
        fetch(remote("good"), tmp_path, download=False)
    assert server.seen == []


def test_a_folder_that_cannot_be_written(remote, tmp_path):
    (tmp_path / "set").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot write to .*set.*TINYGEN_DATA"):
        fetch(remote("good"), tmp_path)


def test_a_file_put_there_by_hand_is_taken(server, remote, tmp_path):
    path = tmp_path / "set" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(b"other bytes")
    assert fetch(remote("good"), tmp_path) == path
    assert server.seen == []


def test_an_unpacked_zip_is_taken(tmp_path):
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    (file,) = DATASETS["celeba"].splits["train"]
    assert fetch(file, tmp_path, download=False) == tmp_path / "celeba" / "img_align_celeba"


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TINYGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == cache_folder() == tmp_path / "tinygen"
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path / "sets"))
    assert data_folder() == tmp_path / "sets"
    assert data_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tinygen"


def remote_files():
    files = {
        file for entry in DATASETS.values() for split in entry.splits.values() for file in split
    }
    return sorted(files, key=lambda file: file.path)


@pytest.mark.parametrize("file", remote_files(), ids=lambda file: file.path)
def test_every_known_file_is_pinned(file):
    algorithm, digest = file.checksum.split(":")
    assert len(bytes.fromhex(digest)) == {"sha256": 32, "md5": 16}[algorithm]
    assert file.urls or (EMBEDDED / file.path).is_file()
    at_hand = [EMBEDDED / file.path]
    if "TINYGEN_DATA" in os.environ and file.path.startswith(("mnist/", "fashion-mnist/")):
        at_hand.append(data_folder() / file.path)
    for path in filter(os.path.exists, at_hand):
        content = path.read_bytes()
        assert len(content) == file.size
        assert hashlib.new(algorithm, content).hexdigest() == digest
