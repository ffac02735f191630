"""VLAD and ASMK as the original computes them, and its files byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.features.formats import delf_format
from delf_tf.retrieval.words.aggregation import (
    AggregatedWords,
    Aggregator,
    asmk_similarity,
    vlad_similarity,
)
from delf_tf.retrieval.words.aggregation_format import read_asmk, read_vlad, write_asmk, write_vlad

CASES = ["k16_d8", "k64_d128"]
CENTROIDS = np.array([[0, 0], [10, 0], [0, 10]])


def _golden(golden_dir, case):
    return np.load(golden_dir / f"delf/aggregation/{case}.npz")


# Of the wide results of 64 words, every 61st value is kept.
STRIDES = {"k16_d8": 1, "k64_d128": 61}


def _num_images(golden):
    return sum(name.startswith("features") for name in golden.files)


def _images(golden, kind):
    for image in range(_num_images(golden)):
        features = golden[f"features{image}"]
        counts = golden[f"regions{image}"]
        yield np.split(features, np.cumsum(counts)[:-1]) if "R_" in kind else features


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_assignments", [1, 2])
@pytest.mark.parametrize("kind", ["VLAD", "R_VLAD"])
def test_golden_vlad(golden_dir, case, num_assignments, kind):
    golden = _golden(golden_dir, case)
    aggregator = Aggregator(golden["codebook"], num_assignments)
    method = aggregator.vlad if kind == "VLAD" else aggregator.regional_vlad
    vectors = [method(image) for image in _images(golden, kind)]
    for image, vector in enumerate(vectors):
        expected = golden[f"{kind}_na{num_assignments}_desc{image}"]
        np.testing.assert_allclose(vector[:: STRIDES[case]], expected, atol=1e-6)
    similarities = [[vlad_similarity(a, b) for b in vectors] for a in vectors]
    expected = golden[f"{kind}_na{num_assignments}_sim"]
    np.testing.assert_allclose(similarities, expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_assignments", [1, 2])
@pytest.mark.parametrize("kind", ["ASMK", "ASMK_STAR", "R_ASMK", "R_ASMK_STAR"])
def test_golden_asmk(golden_dir, case, num_assignments, kind):
    golden = _golden(golden_dir, case)
    aggregator = Aggregator(golden["codebook"], num_assignments)
    regional, binary = kind.startswith("R_"), kind.endswith("STAR")
    method = aggregator.regional_asmk if regional else aggregator.asmk
    images = [method(image, binary=binary) for image in _images(golden, kind)]
    for number, image in enumerate(images):
        name = f"{kind}_na{num_assignments}"
        np.testing.assert_array_equal(image.words, golden[f"{name}_words{number}"])
        flat = image.vectors.reshape(-1)[:: 1 if binary else STRIDES[case]]
        np.testing.assert_allclose(flat, golden[f"{name}_desc{number}"], atol=1e-6)
        assert image.binary == binary
    similarities = [
        [asmk_similarity(a, b, l2_normalize=not regional) for b in images] for a in images
    ]
    expected = golden[f"{kind}_na{num_assignments}_sim"]
    np.testing.assert_allclose(similarities, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("alpha", "tau"), [(3.0, 0.0), (1.0, 0.0), (3.0, 0.25)])
def test_golden_similarity_by_alpha_and_tau(golden_dir, case, alpha, tau):
    golden = _golden(golden_dir, case)
    aggregator = Aggregator(golden["codebook"])
    for kind in ("ASMK", "ASMK_STAR"):
        pair = [aggregator.asmk(golden[f"features{i}"], binary="STAR" in kind) for i in range(2)]
        expected = golden[f"{kind}_sim01_alpha{alpha}_tau{tau}"]
        found = asmk_similarity(*pair, alpha=alpha, tau=tau)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_golden_files_are_read_and_written_byte_for_byte(golden_dir, tmp_path, case):
    folder = golden_dir / "delf/aggregation"
    golden = _golden(golden_dir, case)
    aggregator = Aggregator(golden["codebook"])
    stored = folder / f"{case}_img0.asmk_star"
    image = read_asmk(stored, golden["codebook"].shape[1])
    computed = aggregator.asmk(golden["features0"], binary=True)
    for one in (image, computed):
        assert write_asmk(tmp_path / "a.asmk_star", one).read_bytes() == stored.read_bytes()
    stored = folder / f"{case}_img0.vlad"
    vector = read_vlad(stored)
    assert write_vlad(tmp_path / "a.vlad", vector).read_bytes() == stored.read_bytes()
    np.testing.assert_allclose(vector, aggregator.vlad(golden["features0"]), atol=1e-6)


def test_vlad_by_hand():
    aggregator = Aggregator(CENTROIDS)
    descriptors = [[1, 0], [0, 2], [9, 3]]
    expected = np.array([1, 2, -1, 3, 0, 0])
    np.testing.assert_array_equal(aggregator.vlad(descriptors, l2_normalize=False), expected)
    normalized = aggregator.vlad(descriptors)
    np.testing.assert_allclose(normalized, expected / np.sqrt(15), rtol=1e-6)


def test_asmk_by_hand():
    aggregator = Aggregator(CENTROIDS)
    # The third descriptor lies on its centroid: its residual has no direction, so no word.
    image = aggregator.asmk([[3, 0], [0, 4], [0, 10]])
    np.testing.assert_array_equal(image.words, [0])
    np.testing.assert_allclose(image.vectors, [[0.6, 0.8]], rtol=1e-6)
    signs = aggregator.asmk([[3, -4]], binary=True)
    np.testing.assert_array_equal(signs.vectors, [[0b10000000]])


def test_regions_count_even_when_empty():
    aggregator = Aggregator(CENTROIDS)
    region, empty = np.array([[3, 4]]), np.zeros((0, 2))
    found = aggregator.regional_vlad([region, empty])
    np.testing.assert_allclose(found, [0.3, 0.4, 0, 0, 0, 0], rtol=1e-6)
    found = aggregator.regional_vlad([region, empty], l2_normalize=True)
    np.testing.assert_allclose(found, [0.6, 0.8, 0, 0, 0, 0], rtol=1e-6)
    assert not aggregator.regional_vlad([]).any()
    assert len(aggregator.regional_asmk([empty])) == 0


def test_similarity_by_hand():
    left = AggregatedWords([0, 2], np.array([[1, 0], [0, 1]], np.float32), 2)
    right = AggregatedWords([1, 2, 3, 4], np.array([[1, 0], [0.8, 0.6]] * 2, np.float32), 2)
    assert asmk_similarity(left, right) == pytest.approx(0.6**3 / np.sqrt(8))
    assert asmk_similarity(left, right, l2_normalize=False) == pytest.approx(0.6**3)
    assert asmk_similarity(left, right, tau=0.7) == 0
    bits = [AggregatedWords([5], np.array([[byte]], np.uint8), 8) for byte in (0b1111, 0b0111)]
    assert asmk_similarity(*bits) == pytest.approx(0.75**3)
    none = AggregatedWords([], np.zeros((0, 2), np.float32), 2)
    assert asmk_similarity(left, none) == -1
    assert vlad_similarity([1, 2], [3, 4]) == 11


def test_images_without_features(tmp_path):
    aggregator = Aggregator(CENTROIDS)
    nothing = np.zeros((0, 2))
    np.testing.assert_array_equal(aggregator.vlad(nothing), np.zeros(6))
    for binary, suffix in ((True, ".rasmk_star"), (False, ".rasmk")):
        image = aggregator.asmk(nothing, binary=binary)
        path = write_asmk(tmp_path / f"empty{suffix}", image)
        loaded = read_asmk(path, 2)
        assert len(loaded) == 0
        assert loaded.binary == binary


def test_what_does_not_fit_is_refused(tmp_path):
    aggregator = Aggregator(CENTROIDS)
    with pytest.raises(InputError, match=r"descriptors must have shape \[N, 2\]"):
        aggregator.vlad(np.zeros((1, 3)))
    with pytest.raises(InputError, match="descriptors must be finite"):
        aggregator.asmk([[np.nan, 0]])
    with pytest.raises(InputError, match="num_assignments must be"):
        Aggregator(CENTROIDS, 0)
    with pytest.raises(InputError, match="centroids must not be empty"):
        Aggregator(np.zeros((0, 2)))
    real, signs = (aggregator.asmk([[3, 4]], binary=binary) for binary in (False, True))
    with pytest.raises(InputError, match="one kind and width"):
        asmk_similarity(real, signs)
    with pytest.raises(InputError, match="must ascend"):
        AggregatedWords([2, 1], np.zeros((2, 2)), 2)
    with pytest.raises(InputError, match="right must have shape"):
        vlad_similarity([1, 2], [1])


def test_files_of_another_kind_or_width_are_refused(tmp_path):
    aggregator = Aggregator(CENTROIDS)
    real, signs = (aggregator.asmk([[3, 4]], binary=binary) for binary in (False, True))
    with pytest.raises(InputError, match=r"must end in \.asmk or \.rasmk"):
        write_asmk(tmp_path / "a.asmk_star", real)
    path = write_asmk(tmp_path / "a.asmk", real)
    np.testing.assert_array_equal(read_asmk(path, 2).vectors, real.vectors)
    with pytest.raises(InputError, match="3 values a word at dim 3"):
        read_asmk(path, 3)
    path.rename(tmp_path / "b.asmk_star")
    with pytest.raises(InputError, match="must end in"):
        read_asmk(tmp_path / "b.asmk_star", 2)
    path = write_asmk(tmp_path / "c.asmk_star", signs)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"c\.asmk_star"):
        read_asmk(path, 2)
    delf_format.write_datum_pair(path, np.array([300], np.uint32), np.array([1], np.uint32))
    with pytest.raises(InputError, match="must be bytes"):
        read_asmk(path, 2)
    delf_format.write_datum(tmp_path / "d.vlad", np.zeros((2, 2)))
    with pytest.raises(InputError, match="vector must have shape"):
        read_vlad(tmp_path / "d.vlad")
