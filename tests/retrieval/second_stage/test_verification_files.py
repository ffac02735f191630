"""Verifications on disk: round trip, kill and resume, mixing, damage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from delf_tf import matching
from delf_tf.checks import InputError
from delf_tf.retrieval.second_stage.rerank import rerank
from delf_tf.retrieval.second_stage.verification_files import (
    VerificationFolder,
    VerifiedHead,
    load_verifications,
)
from delf_tf.types import LocalFeatures, Ranking, Verification


def _verification(num_matches, num_inliers, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(num_matches) < num_inliers
    return Verification(
        int(num_inliers), rng.normal(size=(3, 3)), rng.integers(0, 30, (num_matches, 2)), mask
    )


def _same(first, second):
    assert first.num_inliers == second.num_inliers
    for name in ("transform", "matches", "inlier_mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


HEADS = [
    VerifiedHead(np.array([4, 2]), np.array([1.5, 0]), (_verification(5, 3), _verification(0, 0))),
    VerifiedHead(np.zeros(0, np.int64), np.zeros(0), ()),
    VerifiedHead(np.array([7]), np.array([2.5]), (_verification(3, 3, 1),)),
]


def test_round_trip(tmp_path):
    folder = VerificationFolder(tmp_path, ["a", "b", "c"], "f", block_size=2)
    for block, queries in folder.blocks():
        folder.write(block, [HEADS[query] for query in queries])
    loaded = load_verifications(tmp_path)
    assert loaded.query_ids == ("a", "b", "c")
    assert [list(one) for one in loaded] == [[4, 2], [], [7]]
    for query, head in enumerate(HEADS):
        for row, expected in zip(head.rows, head.verifications):
            _same(loaded[query][row], expected)
    np.testing.assert_array_equal(loaded.heads(0)[0].similarity, [1.5, 0])
    assert [list(one) for one in loaded[1:]] == [[], [7]]
    assert list(loaded[-1]) == [7]
    with pytest.raises(IndexError):
        loaded[3]


def test_learned_similarities_are_kept(tmp_path):
    heads = [dataclasses.replace(head, learned=np.arange(len(head.rows)) + 0.5) for head in HEADS]
    VerificationFolder(tmp_path, ["a", "b", "c"], "f").write(0, heads)
    for found, head in zip(load_verifications(tmp_path).heads(0), heads):
        np.testing.assert_array_equal(found.learned, head.learned)
    VerificationFolder(tmp_path / "none", ["a", "b", "c"], "f").write(0, HEADS)
    assert all(one.learned is None for one in load_verifications(tmp_path / "none").heads(0))


def test_no_queries(tmp_path):
    assert list(VerificationFolder(tmp_path, [], "f").blocks()) == []
    assert len(load_verifications(tmp_path)) == 0


def test_another_job_is_refused(tmp_path):
    VerificationFolder(tmp_path, ["a"], "f")
    for arguments in ((["a"], "g"), (["b"], "f")):
        with pytest.raises(InputError, match="these features"):
            VerificationFolder(tmp_path, *arguments)
    with pytest.raises(InputError, match="block_size"):
        VerificationFolder(tmp_path / "new", ["a"], "f", block_size=0)
    with pytest.raises(InputError, match="must hold verifications"):
        load_verifications(tmp_path / "none")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 2}'])
def test_manifests_that_are_none(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="manifest"):
        load_verifications(tmp_path)


def test_damaged_blocks(tmp_path):
    folder = VerificationFolder(tmp_path, ["a", "b", "c"], "f")
    folder.write(0, HEADS)
    path = tmp_path / "block-00000.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"whole \.npz"):
        load_verifications(tmp_path)[0]
    folder.write(0, HEADS[:2])
    with pytest.raises(InputError, match="fit each other"):
        load_verifications(tmp_path)[0]


class _KilledError(Exception):
    pass


@pytest.fixture
def job(monkeypatch):
    """Returns a function that runs a re-ranking of 20 queries, and the queries it verified."""
    verified = []
    counts = np.random.default_rng(0).integers(0, 30, (20, 6))

    def features(name):
        number = int(name[1:])
        return LocalFeatures(np.full((30, 2), number), np.ones((30, 1)), np.ones(30), np.ones(30))

    def verify_many(query, databases, *, num_threads=None, kill_at=None, seed=0):
        number = int(query.locations[0, 0])
        if number == kill_at:
            raise _KilledError
        verified.append(number)
        rows = [int(one.locations[0, 0]) for one in databases]
        return [_verification(30, counts[number, row], row) for row in rows]

    monkeypatch.setattr(matching, "verify_many", verify_many)
    rng = np.random.default_rng(1)
    ranking = Ranking(
        [f"q{row}" for row in range(20)],
        [f"d{row}" for row in range(6)],
        np.array([rng.permutation(6) for _ in range(20)]),
        np.zeros((20, 6)),
    )

    def run(**kwargs):
        return rerank(ranking, features, features, **kwargs)

    return run, verified


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path, job, monkeypatch):
    run, verified = job
    whole, in_memory = run()
    verified.clear()
    original = matching.verify_many

    def killed_at_13(query, databases, **kwargs):
        return original(query, databases, kill_at=13, **kwargs)

    monkeypatch.setattr(matching, "verify_many", killed_at_13)
    with pytest.raises(_KilledError):
        run(verifications_dir=tmp_path / "killed")
    monkeypatch.setattr(matching, "verify_many", original)
    verified.clear()
    resumed, stored = run(verifications_dir=tmp_path / "killed")
    assert verified == list(range(8, 20))
    np.testing.assert_array_equal(resumed.indices, whole.indices)
    run(verifications_dir=tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()
    for query in range(20):
        assert list(stored[query]) == list(in_memory[query])
        for row, expected in in_memory[query].items():
            _same(stored[query][row], expected)


def test_a_finished_run_verifies_nothing_again(tmp_path, job):
    run, verified = job
    run(verifications_dir=tmp_path, num_threads=1)
    verified.clear()
    run(verifications_dir=tmp_path, num_threads=2, score="weighted", min_inliers=12)
    assert verified == []


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"num_candidates": 3}, {"fingerprint": "other features"}]
)
def test_other_settings_are_refused(tmp_path, job, changed):
    run, _ = job
    run(verifications_dir=tmp_path)
    with pytest.raises(InputError, match="these features and settings"):
        run(verifications_dir=tmp_path, **changed)
