from __future__ import annotations

import functools
import json
import pickle

import numpy as np
import pytest

from delf_tf import config
from delf_tf.pipelines import compare, measured_pipeline
from delf_tf.report import comparison_page
from delf_tf.report.judged import Judged
from delf_tf.retrieval.second_stage.verification_files import VerificationFolder
from delf_tf.tools import main
from tests.tools import painted

EXPERIMENT = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 1 }
extraction { max_image_size: 96 use_local_features: true max_num_features: 20 block_size: 4
             local_pca { dim: 8 } }
"""
COMPARISON = """
pipelines { name: "one stage" config: "e.textproto" set: "extraction.use_local_features=false" }
pipelines { name: "two stages" config: "e.textproto" set: "rerank.num_candidates=3" }
pipelines {
  name: "asmk"
  config: "e.textproto"
  set: "index.type=asmk"
  set: "index.asmk.num_words=8"
}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three places with two equal views each, and two distractors."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    painted.write_places(root / "images", root / "labels.csv")
    (root / "e.textproto").write_text(EXPERIMENT)
    (root / "c.textproto").write_text(COMPARISON)
    return root


def _compare(photos, output, *more):
    argv = [f"--config={photos / 'c.textproto'}", f"--database_dir={photos / 'images'}"]
    return main.main(["delf_tf", "compare", *argv, f"--output_dir={output}", *more])


@pytest.fixture(scope="module")
def compared_photos(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    assert _compare(photos, output, f"--labels={photos / 'labels.csv'}") == 0
    return output


def test_figures_tests_and_costs(compared_photos):
    figures = json.loads((compared_photos / "comparison.json").read_text())
    assert figures["num_queries"] == 6
    assert figures["num_database_images"] == 8
    assert figures["queries_cropped"] is False
    blocks = {one["name"]: one for one in figures["pipelines"]}
    assert list(blocks) == ["one stage", "two stages", "asmk"]
    assert blocks["one stage"]["protocols"]["labels"]["mAP"] == 1.0
    assert blocks["one stage"]["against_first"] == {}
    test = blocks["two stages"]["against_first"]["labels"]
    assert test["num_queries"] == 6
    assert test["num_wins"] == 0
    for one in figures["pipelines"]:
        low, high = one["protocols"]["labels"]["mAP_interval"]
        assert 0 <= low <= high <= 1
        costs = one["costs"]
        assert costs["index_bytes"] > 0
        assert costs["search_seconds"] > 0
        assert costs["seconds_per_query"] == pytest.approx(
            costs["search_seconds"] + costs["rerank_seconds"]
        )
    assert blocks["two stages"]["costs"]["rerank_seconds"] > 0
    assert blocks["asmk"]["costs"]["rerank_seconds"] == 0
    assert blocks["two stages"]["costs"]["bytes_per_image"] > 4 * 1280
    assert blocks["one stage"]["costs"]["bytes_per_image"] == 4 * 1280


def test_pipelines_with_the_same_features_share_them(compared_photos):
    assert len(list((compared_photos / "features").iterdir())) == 1


def test_pipelines_with_the_same_heads_verify_them_once(photos, tmp_path, monkeypatch):
    row = 'pipelines {{ name: "{}" config: "e.textproto" set: "rerank.num_candidates={}" {} }}'
    score = 'set: "rerank.score=combined"'
    rows = [row.format("a", 3, ""), row.format("b", 3, score), row.format("c", 2, "")]
    (photos / "shared.textproto").write_text("\n".join(rows))
    verified = []
    real = VerificationFolder.write

    def write(folder, block, heads):
        verified.append(sum(len(one.rows) for one in heads))
        real(folder, block, heads)

    monkeypatch.setattr(VerificationFolder, "write", write)
    pipelines = measured_pipeline.read_pipelines(str(photos / "shared.textproto"))
    labels = str(photos / "labels.csv")
    collections = compare.read_collections(str(photos / "images"), None, labels)
    compare.run_all(pipelines, collections, labels, tmp_path)
    # Six queries, three of whose results the first two pipelines verify, and the last one two.
    assert sum(verified) == 6 * 3 + 6 * 2


def test_page_shows_the_table_and_the_plots(compared_photos):
    page = (compared_photos / "comparison.html").read_text()
    for words in ("two stages", "Accuracy and cost", "Precision and recall", "p-value"):
        assert words in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<img") == page.count(" alt=")


def test_a_second_run_takes_what_is_there(photos, compared_photos, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("ran again")

    monkeypatch.setattr(measured_pipeline, "_first_stage", fail)
    before = (compared_photos / "comparison.json").read_text()
    assert _compare(photos, compared_photos, f"--labels={photos / 'labels.csv'}") == 0
    assert (compared_photos / "comparison.json").read_text() == before
    # Other settings are another pipeline.
    pipelines = measured_pipeline.read_pipelines(str(photos / "c.textproto"))
    pipelines[1].message.rerank.num_candidates = 2
    labels = str(photos / "labels.csv")
    collections = compare.read_collections(str(photos / "images"), None, labels)
    with pytest.raises(AssertionError, match="ran again"):
        compare.run_all(pipelines, collections, labels, compared_photos)


def test_revisited_sets_have_three_protocols_and_cropped_queries(photos, tmp_path):
    images = ["0_0", "0_1", "1_0", "1_1", "3_0"]
    one = {"bbx": [8.0, 8.0, 90.0, 70.0], "easy": [1], "hard": [0], "junk": [4]}
    truth = {"imlist": images, "qimlist": ["2_0"], "gnd": [one]}
    (tmp_path / "gnd_small.pkl").write_bytes(pickle.dumps(truth))
    assert _compare(photos, tmp_path / "out", f"--ground_truth={tmp_path / 'gnd_small.pkl'}") == 0
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert figures["queries_cropped"] is True
    assert set(figures["pipelines"][0]["protocols"]) == {"easy", "medium", "hard"}
    assert figures["num_queries"] == 1
    header = comparison_page.table(figures).header
    assert header[1:4] == ["mAP easy", "mAP medium", "mAP hard"]
    assert "by place" not in header


def test_queries_of_their_own_folder(photos, tmp_path):
    (tmp_path / "queries").mkdir()
    # The same pixels in another file; the very file would be left out of its own results.
    content = (photos / "images" / "0_0.jpg").read_bytes()
    (tmp_path / "queries" / "0_0.jpg").write_bytes(content + b"2")
    argv = [f"--labels={photos / 'labels.csv'}", f"--query_dir={tmp_path / 'queries'}"]
    assert _compare(photos, tmp_path / "out", *argv) == 0
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert figures["num_queries"] == 1
    assert figures["num_database_images"] == 8


def test_largest_spread_first():
    aps = {"a": [0.1, 0.5, np.nan, 0.3], "b": [0.2, 0.9, np.nan, 0.3]}
    rankings = {name: Judged(None, None, np.array(one)) for name, one in aps.items()}
    assert comparison_page.disagreements(rankings, 5) == [1, 0]
    assert comparison_page.disagreements(rankings, 1) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pipelines of different names"),
        ('pipelines { name: "a" config: "compact" } ' * 2, "pipelines of different names"),
        ('pipelines { name: "../a" config: "compact" }', "letters, digits"),
        ('pipelines { name: "a" config: "compct" }', "Did you mean 'compact'"),
        (
            'pipelines { name: "a" config: "compact" set: "index.type=asmk" '
            'set: "query_expansion.alpha=1" }',
            "Pipeline 'a'",
        ),
        (
            'pipelines { name: "a" config: "compact" set: "extraction.use_local_features=false" }',
            "Re-ranking needs local features",
        ),
    ],
)
def test_comparisons_are_refused_before_any_work(photos, tmp_path, text, message, capsys):
    bad = tmp_path / "bad.textproto"
    bad.write_text(text)
    argv = [f"--config={bad}", f"--database_dir={photos / 'images'}"]
    argv += [f"--labels={photos / 'labels.csv'}", f"--output_dir={tmp_path / 'out'}"]
    assert main.main(["delf_tf", "compare", *argv]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shipped_comparisons_can_be_read():
    names = config.list_comparisons()
    assert "compact_systems" in names
    for name in names:
        assert len(measured_pipeline.read_pipelines(name)) > 1


def test_a_folder_of_queries_beside_a_revisited_set_is_refused(photos, tmp_path, capsys):
    argv = ["--ground_truth=gnd_x.pkl", f"--query_dir={photos}"]
    assert _compare(photos, tmp_path / "out", *argv) == 2
    assert "--query_dir must be left out" in capsys.readouterr().err


def test_what_has_no_weights_is_trained_first(photos, tmp_path):
    experiment = (
        EXPERIMENT.replace("local_pca { dim: 8 }", "").replace("use_local_features: true", "")
        + "training { input { batch_size: 2 image_size: 64 } losses { classifier: 'softmax' } "
        + "run { num_steps: 1 } }"
    )
    (tmp_path / "t.textproto").write_text(experiment)
    (tmp_path / "c.textproto").write_text('pipelines { name: "a" config: "t.textproto" }')
    records = tmp_path / "records"
    argv = [f"--images_dir={photos / 'images'}", f"--labels={photos / 'labels.csv'}"]
    argv += ["--num_shards=1", f"--output_dir={records}"]
    assert main.main(["delf_tf", "build_tfrecords", *argv]) == 0
    run = functools.partial(
        _compare,
        tmp_path,
        tmp_path / "out",
        f"--database_dir={photos / 'images'}",
        f"--labels={photos / 'labels.csv'}",
        f"--train_file_pattern={records / 'train*'}",
    )
    assert run() == 0
    weights = tmp_path / "out" / "training" / "a" / "weights.npz"
    before = weights.read_bytes()
    # The trained weights made the features.
    message = config.load_experiment(str(tmp_path / "t.textproto"))
    message.model.weights = str(weights)
    same = measured_pipeline.shared_extraction([measured_pipeline.Pipeline("a", message)])
    assert (tmp_path / "out" / "features" / same[0][0]).is_dir()
    assert run() == 0
    assert weights.read_bytes() == before
