"""Who may change the collection over HTTP, and by what names and pictures."""

from __future__ import annotations

import threading

import pytest
from starlette.testclient import TestClient

from delf_tf.checks import InputError
from delf_tf.serving.access import read_token
from delf_tf.serving.answers import ConflictError, UnknownItemError
from delf_tf.serving.app import create_app
from tests.serving import collection

TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PNG = collection.png(collection.painting(7))


class Changes:
    """Keeps what it was asked to do."""

    def __init__(self):
        self.done = []
        self.fault = None

    def add(self, name, content, image):
        self._do("add", name, content, image.shape)

    def remove(self, name):
        self._do("remove", name)

    def _do(self, *what):
        if self.fault is not None:
            raise self.fault
        self.done.append(what)


@pytest.fixture
def changes():
    return Changes()


def _client(tmp_path, **options):
    app = create_app(collection.make(tmp_path), max_pixels=60 * 80, **options)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path, changes):
    return _client(tmp_path, changes=changes, token=TOKEN, max_upload_bytes=50_000)


def _post(client, name="a.png", content=PNG, headers=BEARER):
    return client.post("/api/images", params={"name": name}, content=content, headers=headers)


def test_images_are_added_and_deleted(client, changes):
    response = _post(client, "2024/é =x.JPG")
    assert response.status_code == 201
    assert response.json() == {"id": "2024/é =x.JPG", "num_images": 4}
    response = client.delete("/api/images/2024/é =x.JPG", headers=BEARER)
    assert response.status_code == 200
    assert changes.done == [("add", "2024/é =x.JPG", PNG, (60, 80, 3)), ("remove", "2024/é =x.JPG")]


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}"),
        *(f"Bearer {TOKEN}0", "Bearer 0123456789abcdeF", "Bearer é", f"Bearer {TOKEN} {TOKEN}"),
    ],
)
def test_nobody_else_changes_anything(client, changes, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for response in (
        _post(client, headers=headers),
        client.delete("/api/images/0.png", headers=headers),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in response.text
    assert changes.done == []


def test_without_a_token_nothing_can_be_changed(tmp_path, changes):
    for options in ({}, {"changes": changes}, {"token": TOKEN}):
        client = _client(tmp_path, **options)
        for response in (_post(client), client.delete("/api/images/0.png", headers=BEARER)):
            assert response.status_code == 403
            assert "--token_file" in response.json()["error"]
    assert changes.done == []


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"host": "evil.example"}],
)
def test_other_sites_and_hosts_change_nothing(client, changes, headers):
    headers = {**BEARER, **headers}
    assert _post(client, headers=headers).status_code in (403, 421)
    assert client.delete("/api/images/0.png", headers=headers).status_code in (403, 421)
    # A page of elsewhere that asks first whether it may send the token is not told that it may.
    asked = {"origin": "http://evil.example", "access-control-request-method": "DELETE"}
    response = client.options("/api/images/0.png", headers=asked)
    assert "access-control-allow-origin" not in response.headers
    assert changes.done == []


@pytest.mark.parametrize(
    "name",
    [
        *("", ".png", "a", "a.txt", "a.png/", "/a.png", "//a.png", "a//b.png", "../a.png"),
        *(
            "a/../../b.png",
            "./a.png",
            "a/./b.png",
            ".a/b.png",
            "a/.b.png",
            "..\\a.png",
            "C:\\a.png",
        ),
        *(
            "a\n.png",
            "a\0.png",
            "a\x1b[31m.png",
            "a\u202egnp.png",
            "a\x7f.png",
            " a.png",
            "a /b.png",
        ),
        *(f"{'a' * 200}.png", "a/" * 500 + "a.png", "é" * 100 + ".png", "a.png "),
    ],
)
def test_names_that_are_none(client, changes, name):
    response = _post(client, name)
    assert response.status_code == 400, name
    assert "A name must be" in response.json()["error"]
    assert changes.done == []


@pytest.mark.parametrize("raw", [b"%ff.png", b"%ed%b3%bf.png", b"%00.png", b"%2e%2e%2fa.png"])
def test_bytes_that_are_no_text_reach_no_file_name(client, changes, raw):
    response = client.post(f"/api/images?name={raw.decode()}", content=PNG, headers=BEARER)
    for _, name, *_ in changes.done:
        # What is no UTF-8 comes as the sign for that.
        assert "\ufffd" in name
        name.encode()
    assert response.status_code == (201 if changes.done else 400)
    client.delete(f"/api/images/{raw.decode()}", headers=BEARER)


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "must not be empty"),
        (b"<svg xmlns='x'/>", 400, "JPEG, PNG, WebP, GIF or BMP"),
        (PNG[:200], 400, "whole and readable"),
        (collection.png(collection.painting(0).repeat(2, axis=0)), 400, "1 to 4800 pixels"),
        (b"\0" * 50_001, 413, "at most 50000 bytes"),
    ],
)
def test_pictures_that_are_none(client, changes, content, status, words):
    response = _post(client, content=content)
    assert response.status_code == status
    assert words in response.json()["error"]
    assert changes.done == []


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (ConflictError("An image of this name is there."), 409),
        (UnknownItemError("No image of the collection has this id."), 404),
        (InputError("A store must be changed by one update. Received: path='/secret'."), 409),
        (OSError(28, "No space left on device", "/secret"), 409),
    ],
)
def test_what_is_in_the_way_is_told_without_paths(client, changes, fault, status):
    changes.fault = fault
    for response in (_post(client), client.delete("/api/images/0.png", headers=BEARER)):
        assert response.status_code == status
        assert response.json()["error"]
        assert "/secret" not in response.text


def test_updates_queue_and_too_many_are_refused(tmp_path, changes):
    entered, leave = threading.Semaphore(0), threading.Event()

    def slow(name, content, image):
        entered.release()
        assert leave.wait(20)

    changes.add = slow
    statuses = []
    with _client(tmp_path, changes=changes, token=TOKEN) as client:
        threads = [
            threading.Thread(target=lambda: statuses.append(_post(client).status_code))
            for _ in range(4)
        ]
        for one in threads:
            one.start()
        for _ in threads:
            assert entered.acquire(timeout=20)
        refused = _post(client)
        leave.set()
        for one in threads:
            one.join()
    assert refused.status_code == 429
    assert statuses == [201] * 4


def _token_file(tmp_path, content=TOKEN + "\n", mode=0o600):
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_token_is_read(tmp_path, mode):
    assert read_token(_token_file(tmp_path, mode=mode)) == TOKEN


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660, 0o777])
def test_a_token_that_others_can_read_is_refused(tmp_path, mode):
    with pytest.raises(InputError, match=rf"owner alone.*mode='{mode:04o}'.*chmod 600"):
        read_token(_token_file(tmp_path, mode=mode))


@pytest.mark.parametrize("content", ["", "\n", "short", "fifteen letters", "a b" * 9, "é" * 20])
def test_tokens_that_are_none(tmp_path, content):
    with pytest.raises(InputError, match="16 printable characters or more") as caught:
        read_token(_token_file(tmp_path, content))
    assert not content.strip() or content not in str(caught.value)


def test_a_token_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_token(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read_token(tmp_path)
