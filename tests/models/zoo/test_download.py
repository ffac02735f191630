"""Downloads from a real server on this machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import socket
import threading

import pytest

from delf_tf.checks import InputError
from delf_tf.models.zoo import download as download_module
from delf_tf.models.zoo.download import DownloadError, cache_dir, download

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; /truncated promises more than it sends."""

    requests: list

    def do_GET(self):
        type(self).requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        sent = len(CONTENT) // 2 if self.path == "/truncated" else len(CONTENT)
        with contextlib.suppress(ConnectionError):  # A client may have had enough.
            self.wfile.write(CONTENT[:sent])

    def log_message(self, *_):
        """Keeps the test's output clean."""


@pytest.fixture
def server():
    handler = type("Handler", (_Handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=functools.partial(httpd.serve_forever, 0.01))
        thread.start()
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        httpd.seen = handler.requests
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["file", "unsized"])
def test_a_file_arrives_whole(server, tmp_path, name):
    path = tmp_path / "new" / "weights.bin"
    assert download(f"{server.url}/{name}", path, sha256=SHA256.upper()) == path
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["weights.bin"]


def test_a_file_that_is_there_is_checked_not_fetched(server, tmp_path):
    path = tmp_path / "w"
    download(f"{server.url}/file", path, sha256=SHA256)
    download(f"{server.url}/file", path, sha256=SHA256)
    assert len(server.seen) == 1
    path.write_bytes(b"other")
    with pytest.raises(DownloadError, match="published sha256"):
        download(f"{server.url}/file", path, sha256=SHA256)
    assert path.read_bytes() == b"other"


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    path = tmp_path / "w"
    with pytest.raises(DownloadError, match=SHA256[:40]):
        download(f"{server.url}/file", path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_connection_is_an_error(server, tmp_path):
    with pytest.raises(DownloadError, match="must be reachable"):
        download(f"{server.url}/truncated", tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_the_url_and_the_place(server, tmp_path):
    with pytest.raises(DownloadError, match="404") as caught:
        download(f"{server.url}/missing", tmp_path / "w")
    assert f"{server.url}/missing" in str(caught.value)
    assert str(tmp_path / "w") in str(caught.value)


def test_no_server_is_said_plainly(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"Without a network, fetch it elsewhere"):
        download(f"http://127.0.0.1:{port}/w", tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "unsized"])
def test_a_file_too_large_is_refused(server, tmp_path, monkeypatch, name):
    monkeypatch.setattr(download_module, "MAX_BYTES", 1000)
    with pytest.raises(DownloadError, match="at most 1000 bytes"):
        download(f"{server.url}/{name}", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_only_http_is_followed(tmp_path):
    with pytest.raises(InputError, match=r"http\(s\)"):
        download("file:///etc/hostname", tmp_path / "w")


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("DELF_TF_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
