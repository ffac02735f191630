"""Photographs of one place have more inliers than others; a folder without pairs is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from delf_tf.benchmarks import real_pairs
from delf_tf.checks import InputError
from delf_tf.tools import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("photos")
    lines = ["image,place"]
    for place in range(3):
        rng = np.random.default_rng(place)
        noise = rng.integers(0, 256, (300, 300)).astype(np.uint8)
        picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
        for view in range(2):
            cv2.imwrite(str(made / f"{place}{view}.png"), picture[view * 20 :, view * 30 :])
            lines.append(f"{place}{view}.png,place{place}")
    (made / "labels.csv").write_text("\n".join(lines) + "\n")
    return made


def test_tells_places_apart(folder):
    result = real_pairs.run_photos(folder, folder / "labels.csv", num_features=200)
    assert (result["num_same"], result["num_different"]) == (3, 12)
    assert [row["solver"] for row in result["rows"]] == [*real_pairs.SOLVERS, "putative matches"]
    assert all(row["auc"] == row["solved"] == 1 for row in result["rows"])


def test_runs_from_the_command_line(folder, capsys):
    argv = ["delf_tf", "benchmark", "photos", f"--set=directory={folder}"]
    assert main.main(argv) == 2
    assert "--set=labels" in capsys.readouterr().err
    assert main.main([*argv, f"--set=labels={folder / 'labels.csv'}"]) == 0
    assert "USAC_MAGSAC" in capsys.readouterr().out


def test_needs_a_pair_of_one_place(folder, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("image,place\n00.png,a\n10.png,b\n")
    with pytest.raises(InputError, match="one place"):
        real_pairs.run_photos(folder, labels)
