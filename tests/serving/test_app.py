from __future__ import annotations

import csv
import io
import struct
import threading
import zlib

import pytest
from starlette.testclient import TestClient

from delf_tf.serving.answers import Answer, Hit
from delf_tf.serving.app import create_app
from delf_tf.serving.queries import results_table
from tests.serving import collection

LIMIT = 50_000


@pytest.fixture
def service(tmp_path):
    return collection.make(tmp_path)


@pytest.fixture
def client(service):
    return _client(service)


def _client(service, **options):
    app = create_app(service, max_upload_bytes=LIMIT, max_pixels=100_000, **options)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def _upload(client, content, **options):
    return client.post("/api/query", content=content, **options)


def test_collection_is_paged(client):
    first = client.get("/api/collection?limit=3").json()
    assert first["num_images"] == 4
    assert first["two_stages"] is True
    assert [one["id"] for one in first["images"]] == ["0.png", "1.png", "2.png"]
    assert client.get("/api/collection?offset=3").json()["images"] == [{"number": 3, "id": "3.png"}]
    assert client.get("/api/collection?offset=9").json()["images"] == []


def test_an_upload_is_found_in_both_modes(client):
    answer = _upload(client, collection.png(collection.painting(3))).json()
    assert answer["single_stage"][0]["id"] == "3.png"
    assert answer["two_stage"][0]["num_inliers"] == 12
    path = f"/api/queries/{answer['token']}/matches/3"
    matches = client.get(path).json()
    assert matches["num_inliers"] == sum(matches["inliers"]) == 12
    assert matches["database_height"] == 60
    assert matches["query_points"] == matches["database_points"]


def test_a_box_is_searched(client):
    content = collection.png(collection.painting(3))
    answer = _upload(client, content, params={"box": "20,0,60,40.2"}).json()
    assert answer["box"] == [20, 0, 60, 40]


def test_an_image_of_the_collection_as_query(client):
    answer = client.post("/api/images/1/query").json()
    assert "1.png" not in [hit["id"] for hit in answer["single_stage"]]


def test_what_is_chosen_is_answered(client):
    content = collection.png(collection.painting(3))
    chosen = {"num_results": 2, "method": "none"}
    answer = _upload(client, content, params=chosen).json()
    assert answer["method"] == "none"
    assert len(answer["single_stage"]) == len(answer["two_stage"]) == 2
    assert client.get("/api/collection").json()["methods"] == ["verification", "none"]


def test_several_pictures_are_one_query(client):
    asked = [_upload(client, collection.png(collection.painting(one))).json() for one in (0, 3)]
    tokens = [one["token"] for one in asked]
    answer = client.post("/api/search", params={"token": tokens, "combine": "max"}).json()
    assert answer["num_pictures"] == 2
    assert {hit["id"] for hit in answer["single_stage"][:2]} == {"0.png", "3.png"}
    assert answer["single_stage"][1]["similarity"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"num_results": 0}, 422),
        ({"num_results": 201}, 422),
        ({"method": "magic"}, 400),
        ({"combine": "sum"}, 422),
    ],
)
def test_choices_that_are_none(client, params, status):
    content = collection.png(collection.painting(0))
    assert _upload(client, content, params=params).status_code == status
    token = _upload(client, content).json()["token"]
    response = client.post("/api/search", params={"token": token, **params})
    assert response.status_code == status
    assert response.json()["error"]


@pytest.mark.parametrize(("tokens", "status"), [([], 422), (["none"], 404), (["x"] * 9, 422)])
def test_tokens_that_are_none(client, tokens, status):
    assert client.post("/api/search", params={"token": tokens}).status_code == status


def test_results_come_as_a_table(client):
    answer = _upload(client, collection.png(collection.painting(3))).json()
    response = client.get(f"/api/queries/{answer['token']}/results.csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text)))
    for stages, hits in (("1", answer["single_stage"]), ("2", answer["two_stage"])):
        told = [row for row in rows if row["stages"] == stages]
        assert [row["image"] for row in told] == [hit["id"] for hit in hits]
        assert [row["rank"] for row in told] == ["1", "2", "3", "4"]
        inliers = [None if row["inliers"] == "" else int(row["inliers"]) for row in told]
        assert inliers == [hit["num_inliers"] for hit in hits]
        for row, hit in zip(told, hits):
            assert float(row["similarity"]) == pytest.approx(hit["similarity"], abs=1e-6)
    assert client.get("/api/queries/none/results.csv").status_code == 404


def test_a_table_holds_no_formula():
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", 'a,"b"', "a\nb", "\udcff.png", "ok"]
    hits = [Hit(at, name, 0.5, None) for at, name in enumerate(names)]
    table = results_table(Answer("t", 1, 1, (0, 0, 1, 1), 1, None, hits, None, {}))
    shown = [row["image"] for row in csv.DictReader(io.StringIO(table))]
    assert shown == [
        *("'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\\t=1", "'\\r=1"),
        *('a,"b"', "a\\nb", "\\udcff.png", "ok"),
    ]
    table.encode()


def test_thumbnails(client):
    response = client.get("/api/images/0/thumbnail")
    assert response.headers["content-type"] == "image/jpeg"
    assert response.content.startswith(b"\xff\xd8\xff")
    assert client.get("/api/images/0/thumbnail?size=huge").status_code == 422


def test_the_collections_pictures_obey_the_limit_of_uploads(service):
    app = create_app(service, max_pixels=60 * 80 - 1)
    small = TestClient(app, base_url="http://localhost")
    assert small.get("/api/images/0/thumbnail").status_code == 404
    assert small.post("/api/images/0/query").status_code == 404


def test_pages_need_nothing_from_elsewhere(client):
    for path in ("/", "/api", "/static/page.js", "/static/box.js", "/static/page.css"):
        response = client.get(path)
        assert response.status_code == 200, path
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        outside = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "http" not in outside.replace("${location.origin}", "")


def test_the_api_describes_itself(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert "image/*" in paths["/api/query"]["post"]["requestBody"]["content"]
    assert set(paths) == {
        "/api/collection",
        "/api/images",
        "/api/images/{name}",
        "/api/images/{number}/thumbnail",
        "/api/query",
        "/api/images/{number}/query",
        "/api/search",
        "/api/queries/{token}/matches/{number}",
        "/api/queries/{token}/results.csv",
    }


def _bomb():
    """A PNG of a few hundred bytes that says it is 60,000 pixels a side."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999))


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "must not be empty"),
        (b"GET / HTTP/1.1", 400, "JPEG, PNG, WebP, GIF or BMP"),
        (b"<svg xmlns='x'/>", 400, "JPEG, PNG, WebP, GIF or BMP"),
        (b"\xff\xd8\xff" + b"\0" * 99, 400, "whole and readable"),
        (collection.png(collection.painting(0))[:200], 400, "whole and readable"),
        (_bomb(), 400, "1 to 100000 pixels"),
        (b"\0" * (LIMIT + 1), 413, f"at most {LIMIT} bytes"),
    ],
)
def test_hostile_uploads(client, service, content, status, words):
    response = _upload(client, content)
    assert response.status_code == status
    assert words in response.json()["error"]
    assert str(service.refs[0].path.parent) not in response.text
    # It goes on serving.
    assert _upload(client, collection.png(collection.painting(0))).status_code == 200


def test_a_body_without_a_length_is_cut_off_at_the_limit(client):
    sent = []

    def endless():
        while len(sent) < 1000:
            sent.append(1)
            yield b"\0" * 10_000

    assert _upload(client, endless()).status_code == 413


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "nan,0,1,1", "0,0,1e300,5", "9,9,9,9", ""])
def test_bad_boxes(client, box):
    response = _upload(client, collection.png(collection.painting(0)), params={"box": box})
    assert response.status_code == 400
    assert "box" in response.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/99/thumbnail",
        "/api/images/-1/thumbnail",
        "/api/queries/none/matches/0",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/etc/passwd",
        "/docs",
    ],
)
def test_what_is_not_there(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]


def test_malformed_numbers_are_told(client):
    response = client.get("/api/images/abc/thumbnail")
    assert response.status_code == 422
    assert "number" in response.json()["error"]


def test_an_image_that_vanished_tells_no_path(client, service):
    service.refs[2].path.unlink()
    for response in (client.get("/api/images/2/thumbnail"), client.post("/api/images/2/query")):
        assert response.status_code == 404
        assert response.json() == {"error": "This image cannot be read any more."}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", ""])
def test_other_hosts_are_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:99"])
def test_own_hosts_are_served(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_other_sites_are_refused(client):
    foreign = {"sec-fetch-site": "cross-site"}
    content = collection.png(collection.painting(0))
    assert _upload(client, content, headers=foreign).status_code == 403
    assert client.get("/api/collection", headers=foreign).status_code == 403
    assert client.get("/", headers=foreign).status_code == 200


def test_too_many_queries_get_429(service):
    entered, leave = threading.Event(), threading.Event()
    whole = service.query

    def slow(*args, **kwargs):
        entered.set()
        assert leave.wait(20)
        return whole(*args, **kwargs)

    service.query = slow
    content = collection.png(collection.painting(0))
    statuses = []
    with _client(service, max_queries=1) as client:
        first = threading.Thread(
            target=lambda: statuses.append(_upload(client, content).status_code)
        )
        first.start()
        assert entered.wait(20)
        refused = _upload(client, content)
        leave.set()
        first.join()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert statuses == [200]
        assert _upload(client, content).status_code == 200
