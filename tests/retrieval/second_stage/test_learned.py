"""ELViS and AMES in NumPy: the references' numbers, and files that are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import threadpoolctl

from delf_tf import npz, threads
from delf_tf.checks import InputError
from delf_tf.retrieval.second_stage.elvis import ElvisSimilarity
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.types import LocalFeatures

OPTIONS = {"descriptor_dim": 16, "width": 32, "num_iterations": 10, "temperature": 0.1}
AMES = {"descriptor_dim": 16, "width": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 24}


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "models/elvis.npz") as arrays:
        return dict(arrays)


def _write(path, golden, **changed):
    arrays = {k.partition(".")[2]: v for k, v in golden.items() if k.startswith("weights.")}
    header = {"name": "elvis", "kwargs": OPTIONS, **changed}
    return npz.write_with_text(path, arrays, "options.json", json.dumps(header))


def _features(descriptors):
    there = descriptors[descriptors.any(axis=1)]
    num = len(there)
    return LocalFeatures(np.zeros((num, 2)), there, np.linspace(1, 0, num), np.ones(num))


def test_the_reference_gives_the_same(golden, tmp_path):
    learned = LearnedSimilarity(_write(tmp_path / "w.npz", golden))
    for (first, second), expected, logit in zip(
        golden["pairs"], golden["similarity"], golden["logit"]
    ):
        found = learned.compare(_features(first), [_features(second)] * 3, num_threads=2)
        np.testing.assert_allclose(found, [expected] * 3, rtol=1e-5)
        np.testing.assert_allclose(learned.logit(found), [logit] * 3, rtol=1e-4)


def test_the_strongest_features_are_compared(golden, tmp_path):
    path = _write(tmp_path / "w.npz", golden)
    first, second = map(_features, golden["pairs"][0])
    few = LearnedSimilarity(path, max_num_features=7)
    heads = [one.take(np.arange(7)) for one in (first, second)]
    expected = LearnedSimilarity(path).compare(heads[0], heads[1:])
    mixed = second.take(np.random.default_rng(0).permutation(len(second)))
    np.testing.assert_allclose(few.compare(first, [mixed]), expected, rtol=1e-5)
    assert few.fingerprint != LearnedSimilarity(path).fingerprint


@pytest.fixture(scope="module")
def ames_golden(golden_dir):
    with np.load(golden_dir / "models/ames.npz") as arrays:
        return dict(arrays)


def _ames(path, golden, form, num_bits, **changed):
    arrays = {k.partition(".")[2]: v for k, v in golden.items() if k.startswith(f"{form}.")}
    header = {"name": "ames", "kwargs": {**AMES, "num_bits": num_bits, **changed}}
    return npz.write_with_text(path, arrays, "options.json", json.dumps(header))


@pytest.mark.parametrize(("form", "num_bits"), [("teacher", 0), ("student", 24)])
def test_the_reference_of_ames_gives_the_same(ames_golden, tmp_path, form, num_bits):
    learned = LearnedSimilarity(_ames(tmp_path / "w.npz", ames_golden, form, num_bits))
    for (first, second), expected in zip(ames_golden["pairs"], ames_golden[form]):
        found = learned.compare(_features(first), [_features(second)] * 3, num_threads=2)
        np.testing.assert_allclose(found, [expected] * 3, rtol=1e-5)
        np.testing.assert_allclose(learned.logit(found), found)
    none, some = _features(np.zeros((0, 16))), _features(ames_golden["pairs"][0, 0])
    assert np.isfinite(learned.compare(none, [none, some])).all()


def test_blas_has_no_threads_beside_those_that_compare(golden, tmp_path, monkeypatch):
    learned = LearnedSimilarity(_write(tmp_path / "w.npz", golden))
    seen = []
    compare = ElvisSimilarity.against

    def against(self, query):
        seen.extend(_blas_threads())
        return compare(self, query)

    monkeypatch.setattr(ElvisSimilarity, "against", against)
    first, second = map(_features, golden["pairs"][0])
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = _blas_threads()
        learned.compare(first, [second])
        with threads.one_blas_thread:
            learned.compare(first, [second])
            assert set(_blas_threads()) == {1}
        assert _blas_threads() == before
    assert set(before) != {1}
    assert set(seen) == {1}


def _blas_threads():
    found = threadpoolctl.threadpool_info()
    return [one["num_threads"] for one in found if one["user_api"] == "blas"]


def test_codes_are_all_that_a_student_compares(ames_golden, tmp_path):
    learned = LearnedSimilarity(_ames(tmp_path / "w.npz", ames_golden, "student", 24))
    first, second = map(_features, ames_golden["pairs"][3])
    codes = [learned.codes(one) for one in (first, second)]
    assert [one.dim for one in codes] == [24, 24]
    np.testing.assert_allclose(np.linalg.norm(codes[0].descriptors, axis=1), 1, rtol=1e-5)
    expected = learned.compare(first, [second])
    np.testing.assert_allclose(learned.compare(codes[0], codes[1:]), expected, rtol=1e-6)
    np.testing.assert_allclose(learned.compare(first, codes[1:]), expected, rtol=1e-6)
    assert learned.codes(_features(np.zeros((0, 16)))).dim == 24
    with pytest.raises(InputError, match="student"):
        LearnedSimilarity(_ames(tmp_path / "t.npz", ames_golden, "teacher", 0)).codes(first)


def test_the_blend_takes_logits_of_any_size(ames_golden, tmp_path):
    learned = LearnedSimilarity(_ames(tmp_path / "w.npz", ames_golden, "teacher", 0))
    blended = learned.blend(np.array([0.4, 0.4, 0.4]), np.array([-1e6, 0, 1e6]))
    np.testing.assert_allclose(blended, [0.2, 0.45, 0.7])


@pytest.mark.parametrize(
    "changed",
    [
        {"num_heads": 3},
        {"num_heads": 0},
        {"num_layers": 10**6},
        {"num_bits": -1},
        {"width": "16"},
        {"hidden_dim": 25},
        {"more": 1},
    ],
)
def test_other_files_of_ames_are_refused(ames_golden, tmp_path, changed):
    path = _ames(tmp_path / "w.npz", ames_golden, "teacher", **{"num_bits": 0, **changed})
    with pytest.raises(InputError):
        LearnedSimilarity(path)


def test_images_without_features(golden, tmp_path):
    learned = LearnedSimilarity(_write(tmp_path / "w.npz", golden))
    none, some = _features(np.zeros((0, 16))), _features(golden["pairs"][0, 0])
    assert learned.compare(none, [none]) == [0]
    one_sided = [learned.compare(none, [some]), learned.compare(some, [none])]
    np.testing.assert_allclose(*one_sided, rtol=1e-5)
    assert learned.compare(some, []).shape == (0,)


def test_other_files_are_refused(golden, tmp_path):
    for kwargs in ({**OPTIONS, "width": 31}, {**OPTIONS, "num_iterations": 10**9}, {}, 3):
        with pytest.raises(InputError):
            LearnedSimilarity(_write(tmp_path / "w.npz", golden, kwargs=kwargs))
    with pytest.raises(InputError, match="train --store"):
        LearnedSimilarity(_write(tmp_path / "w.npz", golden, name="delf"))
    learned = LearnedSimilarity(_write(tmp_path / "w.npz", golden))
    with pytest.raises(InputError, match="width"):
        learned.compare(_features(np.ones((3, 8))), [])
