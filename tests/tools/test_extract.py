from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from delf_tf.features.store import FeatureStore
from delf_tf.tools import main

CONFIG = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.25 seed: 1 }
extraction { use_local_features: true max_num_features: 9 max_image_size: 64 block_size: 2 }
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    for number in range(3):
        pixels = np.random.RandomState(number).randint(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    (root / "images" / "3.jpg").write_bytes(b"no image")
    (root / "c.textproto").write_text(CONFIG)
    return root


def _extract(photos, store, *more):
    flags = [f"--config={photos / 'c.textproto'}", f"--images_dir={photos / 'images'}"]
    return main.main(["delf_tf", "extract", *flags, f"--output_dir={store}", *more])


def test_extracts_lists_failures_and_ends_with_a_summary(photos, tmp_path, capsys):
    assert _extract(photos, tmp_path / "store") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'store'}\n"
    assert "extract: 4/4 images" in captured.err and "1 failed" in captured.err
    assert "bytes an image" in captured.err
    with (tmp_path / "store" / "failed_images.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["image", "3.jpg"]
    assert _extract(photos, tmp_path / "store", "--max_failed_fraction=0.1") == 1


def test_precision_and_codec_make_another_store(photos, tmp_path, capsys):
    options = ["--precision=bfloat16", "--local_codec=int8"]
    assert _extract(photos, tmp_path / "store", *options) == 0
    store = FeatureStore(tmp_path / "store")
    assert store.local_codec == "int8" and len(store.read_local("0.png")) == 9
    assert _extract(photos, tmp_path / "store", "--local_codec=int8") == 1
    assert "fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "case",
    [
        (["--precision=float16"], 2, "precision"),
        (["--set=extraction.precision=half"], 1, "precision"),
        (["--local_codec=int9"], 1, "local_codec"),
        (["--overwrite", "--num_shards=2"], 1, "overwrite needs num_shards=1"),
    ],
)
def test_wrong_options(photos, tmp_path, capsys, case):
    options, code, message = case
    assert _extract(photos, tmp_path / "store", *options) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store" / "manifest.json").exists()
