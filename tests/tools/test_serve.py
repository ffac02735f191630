from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from delf_tf.checks import InputError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import retrieve
from delf_tf.tools import main, serve

CONFIG = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 1 }
extraction { max_image_size: 96 use_local_features: true max_num_features: 30 local_pca { dim: 8 } }
rerank { num_candidates: 3 }
"""


@pytest.fixture(scope="module")
def retrieved(tmp_path_factory):
    """What retrieve made of four small pictures."""
    root = tmp_path_factory.mktemp("served")
    (root / "images").mkdir()
    for seed in range(4):
        pattern = np.random.RandomState(seed).randint(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pattern).resize((96, 80)).save(root / "images" / f"{seed}.png")
    (root / "c.textproto").write_text(CONFIG)
    argv = [f"--config={root / 'c.textproto'}", f"--database_dir={root / 'images'}"]
    assert main.main(["delf_tf", "retrieve", *argv, f"--output_dir={root / 'out'}"]) == 0
    return root


def _serve(*argv):
    command = [sys.executable, "-m", "delf_tf.tools.serve", "--port=0", *argv]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    return process, process.stdout.readline().strip()


def _ask(address, path, content=None):
    method = "GET" if content is None else "POST"
    request = urllib.request.Request(address + path, data=content, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def _query_and_stop(process, address, content):
    try:
        assert address.startswith("http://127.0.0.1:")
        answer = _ask(address, "/api/query", content)
        assert answer["single_stage"][0]["id"] == "2.png"
        assert answer["single_stage"][0]["similarity"] == pytest.approx(1, abs=1e-4)
        assert answer["two_stage"][0]["num_inliers"] > 3
        number = answer["two_stage"][0]["number"]
        matches = _ask(address, f"/api/queries/{answer['token']}/matches/{number}")
        assert matches["num_inliers"] == answer["two_stage"][0]["num_inliers"]
        other = _ask(address, "/api/images/2/query", b"")
        assert "2.png" not in [hit["id"] for hit in other["single_stage"]]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    finally:
        process.kill()
        process.communicate()


def test_the_folder_is_followed_before_it_is_served(retrieved, tmp_path, monkeypatch):
    for name in ("images", "out"):
        shutil.copytree(retrieved / name, tmp_path / name)
    facts = tmp_path / "out" / "retrieval.json"
    told = json.loads(facts.read_text())
    facts.write_text(json.dumps({**told, "images_dir": str(tmp_path / "images")}))
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "4.png")
    (tmp_path / "images" / "1.png").unlink()
    served = []
    monkeypatch.setattr("delf_tf.serving.server.run", lambda app, *_, **__: served.append(app))
    (tmp_path / "token").write_text("0123456789abcdef")
    (tmp_path / "token").chmod(0o600)
    changing = ["--watch", f"--token_file={tmp_path / 'token'}"]
    for options, ids in (([], "0123"), (changing, "234")):
        argv = [f"--index={tmp_path / 'out'}", "--rerank_methods=verification", *options]
        assert main.main(["delf_tf", "serve", *argv]) == 0
        client = TestClient(served[-1], base_url="http://localhost")
        images = client.get("/api/collection").json()["images"]
        assert [one["id"] for one in images] == [f"{one}.png" for one in ids]
    writer = {"Authorization": "Bearer 0123456789abcdef"}
    content = (retrieved / "images" / "0.png").read_bytes()
    assert client.post("/api/images?name=5.png", content=content).status_code == 401
    added = client.post("/api/images?name=5.png", content=content, headers=writer)
    assert added.json() == {"id": "5.png", "num_images": 4}
    found = client.post("/api/query", content=content).json()["single_stage"]
    assert {hit["id"] for hit in found[:2]} == {"4.png", "5.png"}
    assert client.delete("/api/images/5.png", headers=writer).json()["num_images"] == 3
    assert not (tmp_path / "images" / "5.png").exists()


def test_a_folder_of_retrieve_is_served_by_its_name_alone(retrieved):
    before = {path: path.stat().st_mtime_ns for path in (retrieved / "out").rglob("*")}
    process, address = _serve(f"--index={retrieved / 'out'}")
    _query_and_stop(process, address, (retrieved / "images" / "2.png").read_bytes())
    # Nothing is written.
    assert {path: path.stat().st_mtime_ns for path in (retrieved / "out").rglob("*")} == before


def test_an_index_is_served_with_its_store_and_images(retrieved):
    store, index = retrieved / "out" / "database", retrieved / "index"
    argv = [f"--database_store={store}", f"--output={index}", "--type=SQ8"]
    assert main.main(["delf_tf", "build_index", *argv]) == 0
    process, address = _serve(
        f"--index={index}",
        f"--database_store={store}",
        f"--images_dir={retrieved / 'images'}",
        f"--config={retrieved / 'c.textproto'}",
    )
    _query_and_stop(process, address, (retrieved / "images" / "2.png").read_bytes())


def test_an_index_in_milvus_is_served_by_its_address(retrieved, tmp_path, monkeypatch):
    server = pytest.importorskip("milvus_lite.server_manager").server_manager_instance
    uri = server.start_and_get_uri(str(tmp_path / "server.db"))
    store = f"--database_store={retrieved / 'out' / 'database'}"
    monkeypatch.setenv("MILVUS_URI", uri)
    argv = [store, "--type=milvus", "--collection=shown", f"--output={tmp_path / 'x'}"]
    assert main.main(["delf_tf", "build_index", *argv]) == 0
    monkeypatch.delenv("MILVUS_URI")
    flag_values = copy.deepcopy(serve.FLAGS)
    flag_values.unparse_flags()
    argv = [
        f"--index={uri.replace('http', 'milvus')}/shown",
        f"--config={retrieved / 'c.textproto'}",
    ]
    flag_values(["serve", *argv, store, f"--images_dir={retrieved / 'images'}"])
    service, *_ = serve.open_collection(flag_values)
    database = FeatureStore(retrieved / "out" / "database")
    search = service._now.collection.search
    for row, one in enumerate(database.ids()):
        found = search(database.read(one), leave_out=(), max_results=2)
        assert found.indices[0, 0] == row
    server.release_server(str(tmp_path / "server.db"))


def _refused(capsys, code, words, *argv):
    assert main.main(["delf_tf", "serve", *argv]) == code
    assert words in capsys.readouterr().err


def test_mistakes_are_told(retrieved, tmp_path, capsys):
    _refused(capsys, 2, "--index must be given")
    out = f"--index={retrieved / 'out'}"
    _refused(capsys, 2, "--images_dir must be left out", out, f"--images_dir={tmp_path}")
    (tmp_path / "token").write_text("0123456789abcdef")
    (tmp_path / "token").chmod(0o644)
    token = f"--token_file={tmp_path / 'token'}"
    _refused(capsys, 1, "readable by its owner alone", out, token)
    _refused(capsys, 1, "must be there and in order", out, f"{token}s")
    (tmp_path / "token").chmod(0o600)
    for flag in ("--watch", token):
        _refused(capsys, 2, "need a folder of retrieve", f"--index={tmp_path}", flag)
    _refused(capsys, 1, "method must be one of", out, "--rerank_methods=magic")
    _refused(capsys, 2, "--max_queries=0: 0 is not", out, "--max_queries=0")
    _refused(capsys, 2, "--database_store and --images_dir must be given", f"--index={tmp_path}")
    _refused(
        capsys,
        1,
        "images must be where they were",
        f"--index={retrieved / 'index'}",
        f"--database_store={retrieved / 'out' / 'database'}",
        f"--images_dir={tmp_path}",
        f"--config={retrieved / 'c.textproto'}",
    )


def test_features_of_another_model_are_refused(retrieved, capsys):
    out = f"--index={retrieved / 'out'}"
    _refused(capsys, 1, "made as those of the queries", out, "--set=model.seed=2")
    _refused(capsys, 1, "made as those of the queries", out, "--set=extraction.max_image_size=64")


def test_a_folder_remembers_how_it_was_made(retrieved):
    found = retrieve.read_folder(retrieved / "out")
    assert found.message.model.name == "gem_mobilenet_v2"
    assert found.images_dir == (retrieved / "images").resolve()
    assert retrieve.is_folder(retrieved / "out")
    assert not retrieve.is_folder(retrieved / "images")


@pytest.mark.parametrize("section", ['model { name: "%s" }', 'index { type: "%s" }'])
def test_code_that_a_folder_names_is_not_imported(tmp_path, capsys, monkeypatch, section):
    (tmp_path / "stranger.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    facts = {"config": section % "stranger:Thing", "images_dir": str(tmp_path)}
    (tmp_path / "retrieval.json").write_text(json.dumps(facts))
    refused = "Received: name='stranger:Thing'. If you trust it: --allow_import=stranger."
    _refused(capsys, 2, refused, f"--index={tmp_path}")
    _refused(capsys, 2, refused, f"--index={tmp_path}", "--allow_import=strange")
    assert not (tmp_path / "imported").exists()
    found = retrieve.read_folder(tmp_path, allow_imports=["stranger"])
    assert "stranger:Thing" in str(found.message)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"config": "modl {}", "images_dir": "x"}'])
def test_damaged_folders_are_refused(tmp_path, text):
    (tmp_path / "retrieval.json").write_text(text)
    with pytest.raises((InputError, ValueError), match=r"folder of retrieve|has no field"):
        retrieve.read_folder(tmp_path)
