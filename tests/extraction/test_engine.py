from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.extraction import engine
from delf_tf.extraction.extractor import Extractor
from delf_tf.features.store import FeatureStore
from delf_tf.models.create import create_model
from tests.extraction.toy import ToyModel, coordinates_image


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(7):
        image = np.roll(coordinates_image(60 + number, 90), number * 5, axis=1)
        Image.fromarray(image).save(root / f"{number}.png")
    return root


def _extractor():
    return Extractor(ToyModel(), use_local_features=True, max_num_features=5)


def _extract(root, store_dir, **options):
    return engine.extract_to_store(
        folder.list_images(root),
        _extractor(),
        store_dir,
        **{"loader": engine.ImageLoader(), "fingerprint": "f", "block_size": 2, **options},
    )


def _tree(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        # Locks, and when the images were last written.
        if file.is_file() and not file.name.startswith(".")
    }


def test_extracts_every_image_in_order(photos, tmp_path):
    store = FeatureStore(_extract(photos, tmp_path / "store"))
    assert store.ids() == tuple(f"{number}.png" for number in range(7))
    assert store.failed() == {}
    assert len(store.read_local("3.png")) == 5
    assert store.global_descriptors().vectors.shape == (7, 3)


def test_locations_are_pixels_of_the_unlimited_image(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    Image.fromarray(coordinates_image(240, 160)).save(root / "a.png")
    store = FeatureStore(
        _extract(root, tmp_path / "store", loader=engine.ImageLoader(max_side=120))
    )
    local = store.read_local("a.png")
    told = local.descriptors[:, :2] / local.descriptors[:, 2:]
    np.testing.assert_allclose(local.locations, told, atol=1.0)
    assert local.locations.max() > 120


def test_bad_images_are_recorded_and_never_stop_the_run(photos, tmp_path):
    (photos / "0.png").write_bytes((photos / "1.png").read_bytes()[:100])
    (photos / "2.png").write_bytes(b"")
    (photos / "3.png").write_text("not an image")
    Image.new("RGB", (1, 1)).save(photos / "4.png")
    store = FeatureStore(
        _extract(photos, tmp_path / "store", loader=engine.ImageLoader(max_pixels=65 * 90))
    )
    failed = store.failed()
    assert set(failed) == {"0.png", "2.png", "3.png", "4.png", "6.png"}
    assert "at least 10 pixels" in failed["4.png"]
    assert "pixels" in failed["6.png"]
    assert store.ids() == ("1.png", "5.png")


def test_a_file_that_comes_back_completes_the_store(photos, tmp_path):
    undisturbed = _tree(_extract(photos, tmp_path / "one"))
    whole = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(b"")
    _extract(photos, tmp_path / "two")
    (photos / "3.png").write_bytes(whole)
    _extract(photos, tmp_path / "two")
    assert _tree(tmp_path / "two") == undisturbed


def test_a_replaced_image_is_extracted_again(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    before = _tree(path)
    identity = FeatureStore(path).identity()
    for number in (2, 5):
        # Another content, the same time.
        time_ns = (photos / f"{number}.png").stat().st_mtime_ns
        Image.fromarray(coordinates_image(70, 30)).save(photos / f"{number}.png")
        os.utime(photos / f"{number}.png", ns=(time_ns, time_ns))
    # The same content, another time.
    (photos / "1.png").touch()
    _extract(photos, path)
    assert {one: _tree(path)[one] for one in before} == before
    made = FeatureStore(path / "generation-000001")
    assert made.ids() == ("2.png", "5.png")
    anew = FeatureStore(_extract(photos, tmp_path / "anew"))
    assert FeatureStore(path).identity() == anew.identity() != identity


def test_an_image_of_the_same_size_is_hashed_when_its_time_differs(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    content = (photos / "0.png").read_bytes()
    Image.fromarray(np.array(Image.open(photos / "0.png"))[:, ::-1]).save(photos / "0.png")
    changed = (photos / "0.png").read_bytes()
    size = max(len(content), len(changed))
    # What follows a PNG's end is not looked at.
    (photos / "0.png").write_bytes(content.ljust(size, b"\0"))
    _extract(photos, path, overwrite=True)
    (photos / "0.png").write_bytes(changed.ljust(size, b"\0"))
    _extract(photos, path)
    assert FeatureStore(path / "generation-000001").ids() == ("0.png",)


def test_an_image_that_changes_while_it_is_read_fails(photos, tmp_path):
    class Replacing(engine.ImageLoader):
        """Another process writes while this one decodes."""

        def load(self, ref):
            loaded = super().load(ref)
            if ref.id == "4.png":
                ref.path.write_bytes((photos / "3.png").read_bytes())
            return loaded

    path = _extract(photos, tmp_path / "store", loader=Replacing())
    assert list(FeatureStore(path).failed()) == ["4.png"]
    assert "must not change while it is read" in FeatureStore(path).failed()["4.png"]
    undisturbed = _tree(_extract(photos, tmp_path / "other"))
    assert _tree(_extract(photos, path)) == undisturbed


def test_shards_together_make_the_store(photos, tmp_path):
    for shard in (1, 0):
        _extract(photos, tmp_path / "store", shard_index=shard, num_shards=2)
    assert len(FeatureStore(tmp_path / "store").ids()) == 7


def test_another_fingerprint_is_refused_and_overwrite_replaces(photos, tmp_path):
    _extract(photos, tmp_path / "store")
    with pytest.raises(InputError, match="fingerprint"):
        _extract(photos, tmp_path / "store", fingerprint="g")
    path = _extract(photos, tmp_path / "store", fingerprint="g", overwrite=True)
    assert FeatureStore(path).fingerprint == "g"


_CHILD = """
import os, signal, sys
from delf_tf.extraction import engine
from tests.extraction.test_engine import _extract
from pathlib import Path
real, calls = engine.extract_image, [0]
def dying(*arguments):
    calls[0] += 1
    if calls[0] > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
engine.extract_image = dying
_extract(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_run_resumes_to_the_same_bytes(photos, tmp_path, repository):
    undisturbed = _tree(_extract(photos, tmp_path / "one"))
    argv = [sys.executable, "-c", _CHILD, str(photos), str(tmp_path / "two"), "3"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(argv, check=False, cwd=repository, env=environment)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(InputError):
        FeatureStore(tmp_path / "two")
    _extract(photos, tmp_path / "two")
    assert _tree(tmp_path / "two") == undisturbed


def test_sample_descriptors(photos):
    refs = folder.list_images(photos)
    (photos / "2.png").write_bytes(b"")
    loader = engine.ImageLoader()
    sampled, failures = engine.sample_descriptors(refs, _extractor(), loader, max_num_samples=14)
    assert sampled.shape == (12, 3)
    assert list(failures) == ["2.png"]
    nothing = Extractor(ToyModel(), use_local_features=True, score_threshold=300)
    sampled, _ = engine.sample_descriptors(refs, nothing, loader, max_num_samples=14)
    assert sampled.shape == (0, 3)


def test_local_features_are_stored_by_the_codec(photos, tmp_path):
    exact = FeatureStore(_extract(photos, tmp_path / "exact"))
    half = FeatureStore(_extract(photos, tmp_path / "half", local_codec="float16"))
    assert (exact.local_codec, half.local_codec) == ("float32", "float16")
    left, right = exact.read_local("3.png"), half.read_local("3.png")
    np.testing.assert_allclose(right.descriptors, left.descriptors, atol=1e-3)
    with pytest.raises(InputError, match="codec"):
        _extract(photos, tmp_path / "half", local_codec="int8")
    with pytest.raises(InputError, match="no longer supported"):
        _extract(photos, tmp_path / "pq", local_codec="pq1x5")


def test_overwriting_one_shard_of_several_is_refused(photos, tmp_path):
    path = _extract(photos, tmp_path / "store", num_shards=2)
    before = _tree(path)
    with pytest.raises(InputError, match="overwrite needs num_shards=1"):
        _extract(photos, path, num_shards=2, shard_index=1, overwrite=True)
    assert _tree(path) == before


def test_batches_give_the_same_store_and_resume_to_the_same_bytes(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no image")
    model = create_model(
        "delg_resnet14", seed=0, width_multiplier=0.125, embedding_dim=8, local_dim=6
    )
    options = {"loader": engine.ImageLoader(), "fingerprint": "f", "block_size": 3}
    extractor = Extractor(model, use_local_features=True, max_num_features=5)
    refs = folder.list_images(photos)
    alone = FeatureStore(engine.extract_to_store(refs, extractor, tmp_path / "alone", **options))
    path = engine.extract_to_store(refs, extractor, tmp_path / "batch", batch_size=2, **options)
    together = FeatureStore(path)
    assert together.ids() == alone.ids()
    assert set(together.failed()) == set(alone.failed()) == {"broken.png"}
    for one in alone.ids():
        want, got = alone.read(one), together.read(one)
        np.testing.assert_allclose(got.global_descriptor, want.global_descriptor, atol=1e-5)
        np.testing.assert_allclose(got.local.descriptors, want.local.descriptors, atol=1e-4)
        np.testing.assert_allclose(got.local.locations, want.local.locations, atol=1e-3)
    before = _tree(path)
    block = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    block.unlink()
    engine.extract_to_store(refs, extractor, path, batch_size=2, **options)
    assert _tree(path) == before
