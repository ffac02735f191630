"""Real pairs: corner errors by hand, a warped picture solved, broken folders named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from delf_tf.benchmarks import real_pairs
from delf_tf.checks import InputError


def test_corner_error_by_hand():
    shifted = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert real_pairs.corner_error(shifted, np.eye(3), (10, 20)) == pytest.approx(5)
    assert real_pairs.corner_error(2 * shifted, shifted, (10, 20)) == pytest.approx(0)
    assert real_pairs.corner_error(np.zeros((3, 3)), shifted, (10, 20)) == np.inf
    flat = np.diag([1.0, 1.0, 0.0])
    assert real_pairs.corner_error(flat, shifted, (10, 20)) == np.inf


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (400, 500)).astype(np.uint8), (0, 0), 3)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    truth = np.array([[0.9, 0.1, 20], [-0.1, 1.0, 40], [1e-4, 5e-5, 1]])
    cv2.imwrite(str(tmp_path / "noise_1.png"), picture)
    cv2.imwrite(str(tmp_path / "noise_2.png"), cv2.warpPerspective(picture, truth, (500, 400)))
    np.savetxt(tmp_path / "noise.txt", truth)
    return tmp_path


def test_solves_a_warped_picture(folder):
    rows = real_pairs.run(folder, num_features=800)["rows"]
    assert [row["solved_10px"] for row in rows] == [1] * 3
    assert all(row["auc_20px"] > 0.9 for row in rows)
    assert rows[0]["solver"] == "ours"


def test_broken_folders_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"NAME\.txt"):
        real_pairs.load_pairs(tmp_path / "none")
    (folder / "noise.txt").write_text("1 2 x")
    with pytest.raises(InputError, match=r"noise\.txt"):
        real_pairs.load_pairs(folder)
    np.savetxt(folder / "noise.txt", np.eye(3))
    (folder / "noise_2.png").write_bytes(b"")
    with pytest.raises(InputError, match="readable"):
        real_pairs.load_pairs(folder)
