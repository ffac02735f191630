from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from delf_tf.serving.app import create_app
from tests.serving import collection


@pytest.fixture
def service(tmp_path):
    return collection.make(tmp_path)


@pytest.fixture
def client(service):
    app = create_app(service, max_upload_bytes=50_000)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def _counts(client):
    """Returns the values by name and labels."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status(client):
    content = collection.png(collection.painting(0))
    for _ in range(2):
        assert client.post("/api/query", content=content).status_code == 200
    for number in (0, 1, 99):
        client.get(f"/api/images/{number}/thumbnail")
    counts = _counts(client)
    assert counts["delf_tf_requests_total", "/api/query", "200"] == 2
    thumbnail = "/api/images/{number}/thumbnail"
    assert counts["delf_tf_requests_total", thumbnail, "200"] == 2
    assert counts["delf_tf_requests_total", thumbnail, "404"] == 1
    assert counts["delf_tf_request_seconds_count", "/api/query"] == 2
    assert counts["delf_tf_request_seconds_bucket", "+Inf", "/api/query"] == 2
    assert 0 < counts["delf_tf_request_seconds_sum", "/api/query"] < 60
    assert _counts(client)["delf_tf_requests_total", "/metrics", "200"] == 1


def test_refused_pictures_are_counted(client):
    client.post("/api/query", content=b"none")
    client.post("/api/query", content=b"\0" * 50_001)
    client.post("/api/images?name=a.png", content=collection.png(collection.painting(0)))
    client.post("/api/query", content=b"none", headers={"host": "evil.example"})
    counts = _counts(client)
    refused = {key[1]: value for key, value in counts.items() if "refused_total" in key[0]}
    assert refused == {"400": 1, "413": 1, "403": 1, "421": 1}


def test_made_up_paths_make_no_new_counts(client):
    for number in range(20):
        client.get(f"/made/up/{number}")
        client.request(f"X{number}", "/api/query")
    paths = {key[1] for key in _counts(client) if key[0] == "delf_tf_requests_total"}
    assert paths <= {"other", "/api/query"}


def test_a_fault_is_counted(client, service):
    service.answer = None
    assert client.get("/api/queries/x/results.csv").status_code == 500
    path = "/api/queries/{token}/results.csv"
    assert _counts(client)["delf_tf_requests_total", path, "500"] == 1


def test_the_collections_size_is_that_of_now(client, service):
    assert _counts(client)["delf_tf_collection_images",] == 4
    service.replace(service._now.collection._replace(refs=service.refs[:3]))
    assert _counts(client)["delf_tf_collection_images",] == 3


def test_other_hosts_are_not_told(client):
    assert client.get("/metrics", headers={"host": "evil.example"}).status_code == 421
