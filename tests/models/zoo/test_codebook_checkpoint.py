"""The original's codebooks: TensorFlow checkpoints."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.zoo.codebook_checkpoint import read_codebook_checkpoint

CASES = ["k16_d8", "k64_d128"]


@pytest.mark.parametrize("case", CASES)
def test_the_originals_codebooks(golden_dir, case):
    folder = golden_dir / "delf/aggregation"
    found = read_codebook_checkpoint(folder / f"{case}_codebook")
    np.testing.assert_array_equal(found, np.load(folder / f"{case}.npz")["codebook"])


def _write(prefix, tensors):
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )


@pytest.mark.parametrize("name", ["codebook", "clusters"])
def test_a_codebook_among_many_tensors(tmp_path, name):
    words = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    others = {f"layer{i}/with/a/long/name/{i}": np.full(i, 2.0) for i in range(400)}
    _write(tmp_path / "model", {**others, name: words})
    np.testing.assert_array_equal(read_codebook_checkpoint(tmp_path / "model"), words)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weights": np.zeros((2, 2), np.float32)}, "no tensor named codebook"),
        ({"codebook": np.zeros((2, 2))}, "not float32"),
        ({"codebook": np.zeros(4, np.float32)}, "not float32"),
        ({"codebook": np.full((2, 2), np.nan, np.float32)}, "finite"),
    ],
)
def test_what_is_no_codebook_is_refused(tmp_path, tensors, message):
    _write(tmp_path / "model", tensors)
    with pytest.raises(InputError, match=message):
        read_codebook_checkpoint(tmp_path / "model")


def test_absent_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"model\.index"):
        read_codebook_checkpoint(tmp_path / "model")


def test_every_flipped_byte_and_every_cut_is_refused_or_harmless(golden_dir, tmp_path):
    folder = golden_dir / "delf/aggregation"
    expected = np.load(folder / "k16_d8.npz")["codebook"]
    names = [f"k16_d8_codebook{end}" for end in (".index", ".data-00000-of-00001")]
    for name in names:
        shutil.copyfile(folder / name, tmp_path / name)
    refused = 0
    for name in names:
        raw = (folder / name).read_bytes()
        for position in range(len(raw)):
            flipped = raw[:position] + bytes([raw[position] ^ 2]) + raw[position + 1 :]
            for content in (flipped, raw[:position]):
                (tmp_path / name).write_bytes(content)
                try:
                    found = read_codebook_checkpoint(tmp_path / "k16_d8_codebook")
                except InputError:
                    refused += 1
                else:
                    np.testing.assert_array_equal(found, expected)
        (tmp_path / name).write_bytes(raw)
    assert refused > 1000
