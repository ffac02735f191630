"""The path at growing sizes: the collection is what it says, stages are measured, disk is left."""

from __future__ import annotations

import json
import shutil
import types

import numpy as np
import pytest

from delf_tf.benchmarks import scale
from delf_tf.benchmarks.collection import GROUP, Collection
from delf_tf.checks import InputError
from delf_tf.matching.verification import verify


def test_views_of_a_landmark_match_and_others_do_not():
    collection = Collection(10_000, num_features=30)
    assert collection.num_landmarks == 3 * GROUP and collection.first_query == 53 * 192
    views, others = collection.views(0), collection.views(GROUP)
    again = collection.views(2 * collection.num_landmarks)
    assert len(views) == GROUP
    near, far = (
        np.mean([first.global_descriptor @ second.global_descriptor for first, second in pairs])
        for pairs in (zip(views, again), zip(views, others))
    )
    assert near > 0.5 and far < 0.2
    for row in range(3):
        assert verify(views[row].local, again[row].local).num_inliers >= 10
        assert verify(views[row].local, others[row].local).num_inliers <= 7
    same = Collection(10_000, num_features=30).views(0)
    np.testing.assert_array_equal(views[5].local.descriptors, same[5].local.descriptors)


def test_every_stage_is_measured_and_nothing_is_left(tmp_path):
    result = scale.run(
        sizes=[2 * GROUP],
        num_queries=3,
        num_candidates=4,
        num_features=20,
        global_dim=32,
        local_dim=16,
        directory=str(tmp_path),
        num_threads=1,
    )
    json.dumps(result, allow_nan=False)
    rows = {row["stage"]: row for row in result["rows"]}
    assert list(rows) == [row["stage"] for row in result["growth"]]
    assert {row["num_images"] for row in result["rows"]} == {2 * GROUP}
    assert min(row["seconds"] for row in result["rows"]) > 0
    # A row of 32 float32, and 20 features of 16 + 11 bytes.
    assert rows["write the store"]["disk_mb"] * 1e6 > 2 * GROUP * (4 * 32 + 20 * 27)
    # There are two views of each landmark to find, of 128.
    assert 0.25 <= rows["re-rank, all queries"]["precision_at_10"] <= 0.5
    assert list(tmp_path.iterdir()) == []


def test_exponents_by_hand():
    rows = [
        {"num_images": size, "stage": stage, "seconds": seconds, "cpu_seconds": seconds**2, **more}
        for size, stage, seconds, more in [
            (10, "write", 1.0, {"disk_mb": 2.0, "peak_mb": 100.0}),
            (1000, "write", 100.0, {"disk_mb": 2.0, "peak_mb": 100.0}),
            (10, "query", 0.5, {}),
            (1000, "query", 5.0, {}),
        ]
    ]
    write, query = scale.growth(rows)
    assert [write["stage"], query["stage"]] == ["write", "query"]
    assert write["seconds"] == pytest.approx(1) and query["seconds"] == pytest.approx(0.5)
    assert write["cpu_seconds"] == pytest.approx(2)
    assert write["peak_mb"] == pytest.approx(0) and write["disk_mb"] == pytest.approx(0)
    assert query["disk_mb"] is None
    assert scale.growth(rows[:1])[0]["seconds"] is None


def test_a_full_disk_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**9))
    with pytest.raises(InputError, match=r"needs 8\.8 GB"):
        scale.run(directory=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="Counts must be 1 or more"):
        scale.run(sizes=[0])
