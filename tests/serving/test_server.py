"""A real server on this machine, and clients that do not behave."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from tests.serving import collection

# Nothing here is waited for as long as that unless something is broken.
PATIENCE_S = 120
HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class Server:
    """A served collection in a process of its own."""

    def __init__(self, folder, repository, **options):
        command = [sys.executable, "-m", "tests.serving.served", str(folder), json.dumps(options)]
        self.process = subprocess.Popen(
            command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.address = urlsplit(self.process.stdout.readline().strip())

    def connect(self, *sent):
        """Returns a connection on which `sent` was sent."""
        made = socket.create_connection((self.address.hostname, self.address.port), PATIENCE_S)
        for part in sent:
            made.sendall(part)
        return made

    def ask(self, path="/", method="GET", **options):
        """Returns the status and the body of an answer."""
        asked = http.client.HTTPConnection(self.address.netloc, timeout=PATIENCE_S)
        with contextlib.closing(asked):
            asked.request(method, path, **options)
            answer = asked.getresponse()
            return answer.status, answer.read()

    def end(self):
        """Ends the server as a scheduler does; returns its exit status and what it said."""
        self.process.send_signal(signal.SIGTERM)
        _, told = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, told


@pytest.fixture
def serve(tmp_path, repository):
    """Starts servers and sees that they end."""
    made = []

    def start(**options):
        made.append(Server(tmp_path, repository, **options))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


def _upload_head(length):
    return b"POST /api/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length


def _is_closed(connection):
    with connection:
        try:
            return connection.recv(1000) == b""
        except ConnectionResetError:
            return True


def _status(connection):
    with connection:
        return int(connection.recv(1000).split()[1])


def test_heads_that_are_never_finished_are_cut_off(serve):
    server = serve(server={"head_timeout_s": 0.5})
    silent = [server.connect() for _ in range(20)]
    half = [server.connect(HALF_A_HEAD) for _ in range(20)]
    second = server.connect(HALF_A_HEAD + b"\r\n")
    assert second.recv(12) == b"HTTP/1.1 200"
    assert all(_is_closed(one) for one in [*silent, *half])
    # A connection that has been answered has as long for its next request.
    while second.recv(100_000):
        pass
    second.close()


def test_a_head_that_drips_gets_no_more_time(serve):
    server = serve(server={"head_timeout_s": 0.5})
    dripping = server.connect(HALF_A_HEAD)
    dripping.settimeout(0.05)
    for _ in range(round(PATIENCE_S / 0.05)):
        try:
            dripping.sendall(b"X-A: a\r\n")
            if not dripping.recv(1000):
                break
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
    else:
        pytest.fail("The connection was never closed.")
    dripping.close()


def test_more_connections_than_files(serve):
    server = serve(max_files=256)
    half = [server.connect(HALF_A_HEAD) for _ in range(300)]
    assert server.ask()[0] == 200
    assert server.ask("/api/query", "POST", body=collection.png(collection.painting(1)))[0] == 200
    # The oldest made room.
    assert all(_is_closed(one) for one in half[:100])
    for one in half:
        one.close()


def test_slow_uploads_leave_room_for_others(serve):
    server = serve(app={"max_uploads": 4, "upload_timeout_s": 5})
    slow = [server.connect(_upload_head(1000), b"\x89PNG") for _ in range(64)]
    assert server.ask()[0] == 200
    assert server.ask("/api/query", "POST", body=collection.png(collection.painting(1)))[0] == 200
    statuses = [_status(one) for one in slow]
    # All but the last were ended when others came.
    assert set(statuses) == {408, 429}
    assert statuses.count(429) >= 60
    assert server.end() == (-signal.SIGTERM, "")


def test_an_upload_has_its_time(serve):
    server = serve(app={"upload_timeout_s": 0.3})
    assert _status(server.connect(_upload_head(1000), b"\x89PNG")) == 408


def test_an_upload_does_not_hold_up_the_end(serve):
    server = serve(app={"upload_timeout_s": 10.0 * PATIENCE_S})
    slow = server.connect(_upload_head(1000), b"\x89PNG")
    assert server.ask()[0] == 200
    assert server.end() == (-signal.SIGTERM, "")
    slow.close()


def test_a_client_that_goes_in_mid_upload(serve):
    server = serve()
    for _ in range(20):
        server.connect(_upload_head(1000), b"\x89PNG").close()
    assert server.ask()[0] == 200
    assert server.end() == (-signal.SIGTERM, "")


def test_hosts_that_are_none(serve):
    server = serve()
    for host in ("[", "[::1", "]", "a]b[", "\xff"):
        assert server.ask(headers={"Host": host})[0] in (400, 421), host
    assert "Traceback" not in server.end()[1]
