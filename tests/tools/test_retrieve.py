from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from delf_tf.retrieval import ranking_file
from delf_tf.tools import main
from tests.tools import painted

CONFIG = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 1 }
extraction {
  image_scales: 1.0
  max_image_size: 128
  use_local_features: true
  max_num_features: 30
  local_pca { dim: 8 }
  block_size: 4
}
rerank { num_candidates: 3 }
"""


NO_LOCAL = "--set=extraction.use_local_features=false"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three places with two equal views each, and two distractors."""
    root = tmp_path_factory.mktemp("photos")
    painted.write_places(root, root / "labels.csv")
    (root / "c.textproto").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def retrieved(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    labels = f"--labels={photos / 'labels.csv'}"
    assert _retrieve(photos, output, labels, "--num_report_queries=12") == 0
    return output


def _retrieve(photos, output, *more):
    """Runs the tool; without queries in the report, whose maps need the network once more."""
    argv = ["delf_tf", "retrieve", f"--config={photos / 'c.textproto'}", "--num_report_queries=0"]
    return main.main([*argv, f"--database_dir={photos}", f"--output_dir={output}", *more])


def test_metrics_hold_both_stages(retrieved):
    metrics = json.loads((retrieved / "metrics.json").read_text())
    assert metrics["queries_cropped"] is False
    for stage in ("single_stage", "two_stage"):
        block = metrics[stage]
        assert block["num_queries"] == 6
        # Even random weights find equal images: each of the six asks for one other.
        assert block["mAP"] == block["mAP_by_place"] == block["P@1"] == 1.0
        assert list(block["per_query_ap"].values()).count(1.0) == 6
        assert block["queries_cropped"] is False
        assert block["seconds_per_image"] > 0
    assert metrics["two_stage"]["blind_reranking"] is True
    assert metrics["single_stage"]["bytes_per_image"] == 4 * 1280
    assert metrics["two_stage"]["bytes_per_image"] > 4 * 1280


def test_ranking_is_of_everything_but_the_query(retrieved):
    ranking = ranking_file.load_ranking(retrieved / "ranking.npz")
    assert ranking.query_ids == ranking.database_ids
    assert ranking.indices.shape == (8, 7)
    for row, indices in enumerate(ranking.indices):
        assert sorted(indices) == [other for other in range(8) if other != row]
    with np.load(retrieved / "ranking.npz", allow_pickle=False) as content:
        assert {"query_ids", "database_ids", "indices", "scores"} <= set(content.files)
    first = ranking_file.load_ranking(retrieved / "ranking_single_stage.npz")
    assert (np.diff(first.scores, axis=1) <= 0).all()
    # Only the verified head may be in another order.
    np.testing.assert_array_equal(ranking.indices[:, 3:], first.indices[:, 3:])


def test_report_and_failures_are_written(retrieved):
    report = (retrieved / "report.html").read_text()
    assert "two-stage" in report
    assert report.count("<section") == 6
    assert "inliers of" in report
    assert report.count('class="plot"') == 3
    assert "Inliers of verified pairs" in report
    assert report.count("What the network sees") == 3
    assert (retrieved / "failed_images.csv").read_text() == "image,reason\n"


def test_labels_relative_to_a_folder_inside_frame_the_report(photos, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "inside").symlink_to(photos)
    argv = [f"--config={photos / 'c.textproto'}", f"--labels={photos / 'labels.csv'}"]
    argv += [f"--database_dir={tmp_path / 'all'}", f"--output_dir={tmp_path / 'out'}"]
    assert main.main(["delf_tf", "retrieve", *argv]) == 0
    report = (tmp_path / "out" / "report.html").read_text()
    assert "inside/0_0.jpg" in report
    assert "inside/0_1.jpg, same place" in report


def test_the_same_command_again_extracts_nothing_and_ranks_the_same(retrieved, photos):
    before = {p.name: p.stat().st_mtime_ns for p in (retrieved / "database").iterdir()}
    ranking = (retrieved / "ranking.npz").read_bytes()
    assert _retrieve(photos, retrieved, f"--labels={photos / 'labels.csv'}") == 0
    after = {p.name: p.stat().st_mtime_ns for p in (retrieved / "database").iterdir()}
    blocks = [name for name in before if name.endswith(".safetensors")]
    assert blocks
    assert all(before[name] == after[name] for name in blocks)
    assert (retrieved / "ranking.npz").read_bytes() == ranking


def test_a_store_of_another_config_is_refused(retrieved, photos, capsys):
    assert _retrieve(photos, retrieved, "--set=extraction.max_num_features=10") == 1
    error = capsys.readouterr().err
    assert "fingerprint" in error
    assert "overwrite" in error


def test_query_folder_single_stage_without_labels(photos, tmp_path, capsys):
    queries, database = tmp_path / "queries", tmp_path / "database"
    for folder, view in ((queries, 0), (database, 1)):
        folder.mkdir()
        for place in range(3):
            # The painted views of a place are equal; what follows a JPEG's end is not looked at.
            content = (photos / f"{place}_{view}.jpg").read_bytes()
            (folder / f"{place}_{view}.jpg").write_bytes(content + bytes([view]))
    config = tmp_path / "c.textproto"
    config.write_text(CONFIG[: CONFIG.index("rerank")].replace("use_local_features: true", ""))
    argv = [f"--database_dir={database}", f"--query_dir={queries}", f"--config={config}"]
    assert main.main(["delf_tf", "retrieve", *argv, f"--output_dir={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "single-stage" in printed
    assert "two-stage" not in printed
    assert "mAP" not in printed
    ranking = ranking_file.load_ranking(tmp_path / "out" / "ranking.npz")
    assert ranking.query_ids == ("0_0.jpg", "1_0.jpg", "2_0.jpg")
    assert ranking.indices.shape == (3, 3)
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_queries_that_are_database_images_are_not_their_own_results(photos, tmp_path, caplog):
    database, output = tmp_path / "database", tmp_path / "out"
    (database / "asked").mkdir(parents=True)
    for place in range(3):
        shutil.copy(photos / f"{place}_0.jpg", database / "asked")
        # Another file of the place: what follows a JPEG's end is not looked at.
        content = (photos / f"{place}_1.jpg").read_bytes()
        (database / f"{place}_1.jpg").write_bytes(content + b"2")
    argv = [f"--config={photos / 'c.textproto'}", "--num_report_queries=1"]
    argv += [f"--database_dir={database}", f"--query_dir={database / 'asked'}"]
    argv += [f"--labels={photos / 'labels.csv'}", f"--output_dir={output}"]
    assert main.main(["delf_tf", "retrieve", *argv]) == 0
    told = [r.getMessage() for r in caplog.records if "its own results" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("3 queries are images of the database too, such as 0_0.jpg, there as")
    for name in ("ranking", "ranking_single_stage"):
        ranking = ranking_file.load_ranking(output / f"{name}.npz")
        assert ranking.left_out == {
            f"{place}_0.jpg": [f"asked/{place}_0.jpg"] for place in range(3)
        }
        for query, row in zip(ranking.query_ids, ranking.indices):
            found = [ranking.database_ids[image] for image in row if image >= 0]
            assert sorted(found) == sorted(set(ranking.database_ids) - {f"asked/{query}"})
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["two_stage"]["num_queries"] == 3
    # Its one other picture is found first; the query itself is no positive that was missed.
    assert metrics["two_stage"]["mAP"] == 1.0
    scored = tmp_path / "scored.json"
    argv = [f"--ranking={output / 'ranking.npz'}", f"--ground_truth={photos / 'labels.csv'}"]
    assert main.main(["delf_tf", "evaluate", *argv, f"--output={scored}"]) == 0
    assert json.loads(scored.read_text())["mAP"] == 1.0


def test_visual_words_alone_are_a_single_stage(photos, tmp_path):
    words = [
        "--set=index.type=asmk",
        "--set=index.asmk.num_words=16",
        # Equal images then have equal words, and a score of 1.
        "--set=index.asmk.query_assignments=1",
        "--set=extraction.use_global_features=false",
        "--set=rerank.num_candidates=3",
    ]
    assert _retrieve(photos, tmp_path, f"--labels={photos / 'labels.csv'}", *words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["single_stage"]["mAP"] == 1.0
    assert metrics["single_stage"]["first_stage"]["index"] == "asmk"
    one, two = (metrics[stage]["bytes_per_image"] for stage in ("single_stage", "two_stage"))
    assert one == two > 0


def test_expansion_is_reported_with_the_single_stage(retrieved, photos, tmp_path):
    shutil.copytree(retrieved, tmp_path / "out")
    more = ["--set=query_expansion.num_neighbors=1", "--set=global_rerank.num_candidates=4"]
    argv = [f"--labels={photos / 'labels.csv'}", *more]
    assert _retrieve(photos, tmp_path / "out", *argv) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    told = metrics["single_stage"]["first_stage"]
    assert told["query_expansion"] == {"num_neighbors": 1, "alpha": 3.0}
    assert told["global_rerank"]["num_candidates"] == 4
    assert told["database_augmentation"] is None
    plain = json.loads((retrieved / "metrics.json").read_text())["single_stage"]["first_stage"]
    assert (plain["index"], plain["query_expansion"]) == ("exact", None)


def test_bad_images_are_listed_and_the_rest_is_searched(photos, tmp_path):
    database = tmp_path / "database"
    shutil.copytree(photos, database)
    (database / "empty.jpg").write_bytes(b"")
    (database / "text.jpg").write_text("hello")
    (database / "cut.jpg").write_bytes((photos / "0_0.jpg").read_bytes()[:200])
    Image.new("RGB", (1, 1)).save(database / "tiny.png")
    assert _retrieve(database, tmp_path / "out", f"--labels={photos / 'labels.csv'}") == 0
    with (tmp_path / "out" / "failed_images.csv").open(newline="") as file:
        failed = list(csv.DictReader(file))
    assert [row["image"] for row in failed] == ["cut.jpg", "empty.jpg", "text.jpg", "tiny.png"]
    assert all(row["reason"] and "\n" not in row["reason"] for row in failed)
    assert len(ranking_file.load_ranking(tmp_path / "out" / "ranking.npz").database_ids) == 8


def test_only_bad_images(tmp_path, photos, capsys):
    database = tmp_path / "database"
    database.mkdir()
    (database / "a.jpg").write_bytes(b"")
    argv = [f"--database_dir={database}", f"--config={photos / 'c.textproto'}"]
    assert main.main(["delf_tf", "retrieve", *argv, f"--output_dir={tmp_path / 'out'}"]) == 1
    assert "needs at least two local features" in capsys.readouterr().err
    assert "a.jpg," in (tmp_path / "out" / "failed_images.csv").read_text()


@pytest.mark.parametrize(
    "case",
    [
        (["--output_dir=OUT", "--config=c"], 2, "--database_dir must be given"),
        (["--database_dir=d", "--output_dir=OUT", "--config="], 2, "--config must be given"),
        (
            ["--database_dir=d", "--output_dir=OUT", "--config=mobilenet_v2_imagent"],
            2,
            "Did you mean",
        ),
        (
            ["--database_dir=none", "--output_dir=OUT", "--config=C"],
            1,
            "must exist",
        ),
        (["--database_dir=EMPTY", "--output_dir=OUT", "--config=C"], 1, "must hold at least one"),
        (["--database_dir=D", "--output_dir=OUT", "--config=C", "--labels=no.csv"], 1, "no.csv"),
        (["--database_dir=D", "--output_dir=OUT", "--config=C", "--weights=no.npz"], 1, "no.npz"),
        (["--database_dir=D", "--output_dir=OUT", "--config=C", "x.jpg"], 2, "flags only"),
        (
            ["--database_dir=D", "--output_dir=OUT", "--config=C", "--set=model.nme=x"],
            2,
            "Did you mean 'name'",
        ),
        (
            ["--database_dir=D", "--output_dir=OUT", "--config=C", "--set=model.name=delg_resnet5"],
            1,
            "delg_resnet50",
        ),
        (
            ["--database_dir=D", "--output_dir=OUT", "--config=C", "--set=rerank.score=best"],
            1,
            "score must be one of",
        ),
        (
            ["--database_dir=D", "--output_dir=OUT", "--config=C", NO_LOCAL],
            1,
            "Re-ranking needs local features",
        ),
        (
            [
                "--database_dir=D",
                "--output_dir=OUT",
                "--config=C",
                NO_LOCAL,
                "--set=index.type=asmk",
            ],
            1,
            "searches by local features",
        ),
    ],
)
def test_bad_input_is_one_line(photos, tmp_path, capsys, case):
    (tmp_path / "empty").mkdir()
    arguments, code, message = case
    names = {
        "=C": photos / "c.textproto",
        "=D": photos,
        "=OUT": tmp_path / "out",
        "=EMPTY": tmp_path / "empty",
    }
    for short, path in names.items():
        arguments = [a.replace(short, f"={path}") if a.endswith(short) else a for a in arguments]
    assert main.main(["delf_tf", "retrieve", *arguments]) == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("delf_tf ")]
    assert len(error) == 1
    assert message in error[0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--set=rerank.num_candidates=-1", "num_candidates must be 0 or more"),
        ("--set=rerank.transform=shear", "model must be one of"),
        ("--set=rerank.max_ratio=-1", "max_ratio must be positive"),
        ("--set=rerank.inlier_threshold_px=0", "inlier_threshold_px must be"),
        ("--set=index.max_results=0", "max_results must be 1 or more"),
        ("--set=index.num_probes=0", "num_probes must be 1 or more"),
        ("--set=query_expansion.alpha=-1", "alpha must be 0 or more"),
        ("--set=global_rerank.num_candidates=-1", "num_candidates must be 0 or more"),
        ("--set=database_augmentation.num_neighbors=-1", "num_neighbors must be 0 or more"),
        ("--labels=OTHERS", "Labels must be of these images"),
    ],
)
def test_what_is_refused_before_any_work(photos, tmp_path, capsys, argument, message):
    others = tmp_path / "others.csv"
    others.write_text("image,place\nanother.jpg,tower\n")
    argument = argument.replace("OTHERS", str(others))
    assert _retrieve(photos, tmp_path / "out", argument) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_as_a_module_of_its_own(repository):
    argv = [sys.executable, "-m", "delf_tf.tools.retrieve"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd=repository, env=environment
    )
    assert done.returncode == 2
    assert done.stderr == (
        "delf_tf retrieve: --database_dir and --output_dir must be given; see --help.\n"
    )
