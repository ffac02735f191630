"""Every installed peer finds an exact transform; a missing one says how to get it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from delf_tf.benchmarks import matching as benchmark
from delf_tf.benchmarks import matching_peers
from delf_tf.benchmarks.synthetic_pairs import make_pair
from delf_tf.checks import InputError


@pytest.mark.parametrize("name", matching_peers.available())
def test_finds_an_exact_affine_transform(name):
    rng = np.random.default_rng(0)
    query = rng.uniform(0, 500, (60, 2))
    database = query @ np.array([[1.1, 0.1], [-0.2, 0.9]]) + (30, 5)
    database[40:] = rng.uniform(0, 500, (20, 2))
    transform, mask = matching_peers.estimator(name)(query, database, 3.0, 0)
    moved = np.c_[query, np.ones(60)] @ transform.T
    near = np.abs(moved[:, :2] / moved[:, 2:] - database).max(axis=1) < 3
    assert mask.dtype == bool and near[:40].all()
    assert mask[:40].all()
    assert mask[40:].sum() <= 2


def test_unknown_and_missing_are_named(monkeypatch):
    with pytest.raises(InputError, match="Did you mean 'pydegensac'"):
        matching_peers.estimator("pydegensacc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        matching_peers.estimator("OpenCV affine")
    assert matching_peers.available() == []


def test_benchmark_measures_every_contender():
    settings = [benchmark.Setting(num_features=200, dim=16)]
    peers = ["ours affine", "OpenCV USAC_FAST"]
    whole = "NumPy, OpenCV USAC_ACCURATE"
    names = ["ours", "NumPy", whole, *peers]
    result = benchmark.run(settings, num_pairs=2, repeats=1, num_threads=1, contenders=names)
    rows = {(row["stage"], row["contender"]): row for row in result["rows"]}
    assert set(rows) == {
        ("whole pair", "ours"),
        ("whole pair", whole),
        ("product", "NumPy"),
        ("100 candidates, each", "ours"),
        *((stage, name) for stage in ("mutual", "one-way") for name in peers),
    }
    assert all(rows["whole pair", name]["recall"] >= 0.9 for name in ("ours", whole))
    assert "recall" not in rows["product", "NumPy"]
    assert all(row["ms"] > 0 for row in result["rows"])


def test_original_path_finds_the_true_matches():
    pair = make_pair(0, "affine", num_features=200)
    found = set(map(tuple, benchmark.original_path(pair, 20.0, 1.0).tolist()))
    truth = set(map(tuple, pair.truth.tolist()))
    assert len(found & truth) >= 0.9 * len(truth)


@pytest.mark.parametrize("kind", ["affine", "homography", "none"])
def test_synthetic_pairs_are_what_they_say(kind):
    pair = make_pair(3, kind, num_features=100, true_fraction=0.2, dim=8, location_noise_px=0)
    assert len(pair.query) == len(pair.database) == 100
    assert len(pair.truth) == (0 if kind == "none" else 20)
    norms = np.linalg.norm(pair.database.descriptors, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    q, d = pair.truth.T
    xy = np.c_[pair.query.locations[q][:, ::-1], np.ones(len(q))] @ pair.transform.T
    if kind != "none":
        np.testing.assert_allclose(
            xy[:, :2] / xy[:, 2:], pair.database.locations[d][:, ::-1], atol=1e-2
        )
        assert (pair.transform[2, :2] != 0).any() == (kind == "homography")
    other = make_pair(3, kind, num_features=100, true_fraction=0.2, dim=8, location_noise_px=0)
    np.testing.assert_array_equal(other.query.locations, pair.query.locations)
