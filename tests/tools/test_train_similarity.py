"""A store to a learned similarity, which then re-ranks, alone and with verification."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from delf_tf.features.store import FeatureStore
from delf_tf.models.similarity import create
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage.verification_files import load_verifications
from delf_tf.tools import main
from delf_tf.types import Ranking
from tests.tools import stores

IMAGES = {**stores.places(8, 2), "-1_0": stores.place_features(-1, 0)}
SETTINGS = ["optimizer.learning_rate=0.003", "input.batch_size=8", "run.num_steps=40"]
SETTINGS += ["run.checkpoint_interval=20", "run.log_interval=20", "schedule.warmup_steps=5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, its labels, and a ranking that has the right image in the middle."""
    folder = tmp_path_factory.mktemp("similarity")
    stores.make_store(folder / "store", IMAGES)
    stores.labels_file(folder / "labels.csv", IMAGES)
    ids = tuple(FeatureStore(folder / "store").ids())
    random = np.random.default_rng(0)
    rows = [random.permutation([r for r in range(len(ids)) if r != q]) for q in range(len(ids))]
    ranking = Ranking(ids, ids, np.array(rows), np.tile(np.linspace(0.9, 0.8, 16), (17, 1)))
    ranking_file.save_ranking(folder / "first.npz", ranking)
    return folder


def _train(folder, output, *settings, config="elvis", model=""):
    argv = [f"--set=training.{one}" for one in (*SETTINGS, *settings)]
    argv += [f"--{name}={folder / value}" for name, value in _INPUTS.items()]
    argv += [f"--config={config}", f"--output_dir={output}"]
    argv += [f"--set=model.name={model}"] if model else []
    return main.main(["delf_tf", "train", *argv])


_INPUTS = {"store": "store", "ranking": "first.npz", "labels": "labels.csv"}


@pytest.fixture(scope="module")
def weights(folder):
    assert _train(folder, folder / "run") == 0
    return folder / "run/weights.npz"


def _rerank(folder, weights, *argv):
    argv = [f"--set=rerank.{one}" for one in (f"learned.weights={weights}", *argv)]
    argv += [f"--ranking={folder / 'first.npz'}", f"--database_store={folder / 'store'}"]
    return argv


def _right_first(path):
    new = ranking_file.load_ranking(path)
    firsts = [new.database_ids[row] for row in new.indices[:, 0]]
    return sum(a[0] == b[0] != "-" for a, b in zip(firsts, new.query_ids))


def test_the_trained_similarity_puts_the_right_image_first(folder, weights, tmp_path):
    argv = _rerank(folder, weights, "method=learned", "learned.global_share=0")
    assert main.main(["delf_tf", "rerank", *argv, f"--output={tmp_path / 'new.npz'}"]) == 0
    assert _right_first(folder / "first.npz") < 4
    assert _right_first(tmp_path / "new.npz") == 16
    # Nothing was verified, and what was computed is kept.
    found = load_verifications(tmp_path / "new.verifications")
    assert all(one.num_inliers == 0 for head in found for one in head.values())
    assert (found.heads(0)[0].learned > 0).all()


def test_one_probability_of_all(folder, weights, tmp_path, capsys):
    argv = _rerank(folder, weights, "method=fusion")
    fit = ["--fit_probability", f"--labels={folder / 'labels.csv'}"]
    assert main.main(["delf_tf", "rerank", *argv, *fit]) == 0
    section = capsys.readouterr().out
    assert float(section.split("learned: ")[1].split()[0]) > 0
    assert float(section.split("evidence: ")[1].split()[0]) > 0
    config = tmp_path / "config.textproto"
    config.write_text("rerank {" + section + "}")
    argv += [f"--config={config}", f"--output={tmp_path / 'new.npz'}"]
    assert main.main(["delf_tf", "rerank", *argv]) == 0
    assert _right_first(tmp_path / "new.npz") == 16


def test_a_stopped_run_ends_as_an_unbroken_one(folder, weights, tmp_path):
    assert _train(folder, tmp_path / "run") == 0
    middle, last = sorted((tmp_path / "run/checkpoints").glob("step-*.npz"))
    last.unlink()
    assert middle.exists()
    assert _train(folder, tmp_path / "run") == 0
    with np.load(weights) as first, np.load(tmp_path / "run/weights.npz") as second:
        for name in first.files:
            if not name.endswith(".json"):
                np.testing.assert_array_equal(first[name], second[name])


def test_a_student_of_ames_follows_its_teacher(folder, weights, tmp_path, monkeypatch):
    row = create.SIMILARITIES["ames_student"]
    small = row._replace(options={**row.options, "num_layers": 1, "hidden_dim": 32})
    monkeypatch.setitem(create.SIMILARITIES, "ames_student", small)
    few = ("run.num_steps=2", "run.checkpoint_interval=2", "run.log_interval=1")
    # Any similarity can teach; this one is there.
    taught = (*few, "losses.distillation_weight=10", f"losses.teacher.weights={weights}")
    student = tmp_path / "student"
    assert _train(folder, student, *taught, config="ames", model="ames_student") == 0
    with (student / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        losses = [float(row[f"{name}_loss"]) for name in ("similarity", "distillation")]
        assert float(row["loss"]) == pytest.approx(losses[0] + 10 * losses[1], rel=1e-4)
    # Its codes are all that is needed of the features.
    argv = [f"--output={tmp_path / 'codes'}", "--local_codec=signs"]
    argv += [f"--input={folder / 'store'}", f"--student={student / 'weights.npz'}"]
    assert main.main(["delf_tf", "convert_features", *argv]) == 0
    assert FeatureStore(tmp_path / "codes").local_dim == 128
    found = []
    for store in (folder / "store", tmp_path / "codes"):
        argv = _rerank(folder, student / "weights.npz", "method=learned")
        argv += [f"--database_store={store}", f"--output={tmp_path / store.name}.npz"]
        assert main.main(["delf_tf", "rerank", *argv]) == 0
        kept = load_verifications(tmp_path / f"{store.name}.verifications")
        found.append(kept.heads(0)[0].learned)
    assert len(set(found[0])) > 1
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["method=learned"], "train --store"),
        (["method=learned", "learned.weights=none.npz"], "train --store"),
        (["score=learned"], "rerank.method"),
    ],
)
def test_a_similarity_must_be_there(folder, tmp_path, capsys, argv, message):
    argv = _rerank(folder, "", *argv)
    assert main.main(["delf_tf", "rerank", *argv, f"--output={tmp_path / 'new.npz'}"]) == 1
    assert message in capsys.readouterr().err


def test_a_similarity_that_the_probability_leaves_out(folder, weights, tmp_path, capsys):
    fitted = ("score=probability", "probability.similarity=20", "probability.evidence=2")
    argv = _rerank(folder, weights, "method=fusion", *fitted)
    assert main.main(["delf_tf", "rerank", *argv, f"--output={tmp_path / 'new.npz'}"]) == 1
    assert "must weigh the learned similarity" in capsys.readouterr().err
