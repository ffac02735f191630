from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from delf_tf.retrieval import ranking_file
from delf_tf.tools import main
from delf_tf.types import Ranking
from tests.golden_arrays import revisited_oxford


def _evaluate(*arguments):
    return main.main(["delf_tf", "evaluate", *map(str, arguments)])


@pytest.fixture
def labelled(tmp_path):
    """Two places; of query a the positive is found second: AP = (0 + 1/2) / 2 / 1 = 0.25."""
    (tmp_path / "labels.csv").write_text("image,place\na,x\nb,x\nc,\n")
    ranking = Ranking(("a",), ("a", "b", "c"), [[0, 2, 1]], [[3, 2, 1]])
    return tmp_path / "labels.csv", ranking_file.save_ranking(tmp_path / "r.npz", ranking)


def test_labels(labelled, tmp_path, capsys):
    labels, ranking = labelled
    output = tmp_path / "metrics.json"
    assert _evaluate(f"--ground_truth={labels}", f"--ranking={ranking}", f"--output={output}") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("labels: mAP 25.00")
    assert "1 queries, no query boxes, not re-ranked" in printed
    written = json.loads(output.read_text())
    assert written["mAP"] == written["mAP_by_place"] == 0.25
    assert written["P@1"] == 0.0


def test_conditions_can_be_told(labelled, capsys):
    labels, ranking = labelled
    told = ["--queries_cropped", "--noblind_reranking", "--json"]
    assert _evaluate(f"--ground_truth={labels}", f"--ranking={ranking}", *told) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["queries_cropped"] is True
    assert scored["blind_reranking"] is False


def _golden_scores(gnd, seed):
    """Scores made as the golden README tells."""
    random = np.random.RandomState(seed)
    scores = random.rand(len(gnd.database_ids), len(gnd.query_ids))
    for query in range(len(gnd.query_ids)):
        for part, weight in (("easy", 0.7), ("hard", 0.35), ("junk", 0.5)):
            rows = getattr(gnd, part)[query]
            if len(rows):
                scores[rows, query] += weight * random.rand(len(rows))
    return scores


def test_revisited_oxford_is_exact(golden_dir, tmp_path, capsys):
    from delf_tf.datasets import revisitop

    golden = json.loads((golden_dir / "revisitop/revisitop_roxford5k.json").read_text())
    path = tmp_path / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps(revisited_oxford(golden_dir)))
    gnd = revisitop.read_ground_truth(path)
    scores = _golden_scores(gnd, golden.get("seed", 0))
    ranks = np.argsort(-scores, axis=0, kind="stable").T
    # Another order of the database, without scores, as another program may write it.
    shuffled = np.random.RandomState(1).permutation(len(gnd.database_ids))
    inverse = np.argsort(shuffled)
    np.savez(
        tmp_path / "r.npz",
        query_ids=np.array(gnd.query_ids[::-1]),
        database_ids=np.array(gnd.database_ids)[shuffled],
        indices=inverse[ranks][::-1],
    )
    assert _evaluate(f"--ground_truth={path}", f"--ranking={tmp_path / 'r.npz'}", "--json") == 0
    scored = json.loads(capsys.readouterr().out)["protocols"]
    for name, short in (("easy", "E"), ("medium", "M"), ("hard", "H")):
        expected = golden["expected"][short]
        assert scored[name]["mAP"] == pytest.approx(expected["map"], abs=1e-6)
        assert set(scored[name]["mP"]) == {"1", "5", "10"}
        for k, value in zip(("1", "5", "10"), expected["mp"]):
            assert scored[name]["mP"][k] == pytest.approx(value, abs=1e-6)
        # The queries were given in reverse and come back in the ground truth's order.
        given = np.array([np.nan if ap is None else ap for ap in scored[name]["per_query_ap"]])
        np.testing.assert_allclose(given, np.array(expected["aps"], float), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ranking=r.npz"], 2, "--ground_truth must be given"),
        (["--ranking=none.npz", "--ground_truth=labels.csv"], 1, "none.npz"),
        (["--ranking=r.npz", "--ground_truth=none.csv"], 1, "none.csv"),
        (["--ranking=r.npz", "--ground_truth=gnd.txt"], 1, "extension of a ground truth file"),
    ],
)
def test_bad_input(labelled, tmp_path, monkeypatch, capsys, arguments, code, message):  # noqa: PLR0917
    monkeypatch.chdir(tmp_path)
    assert _evaluate(*arguments) == code
    assert message in capsys.readouterr().err


def test_a_ranking_of_other_images(labelled, golden_dir, tmp_path, capsys):
    _, ranking = labelled
    path = tmp_path / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps(revisited_oxford(golden_dir)))
    assert _evaluate(f"--ground_truth={path}", f"--ranking={ranking}") == 1
    assert "must be of the ground truth's images" in capsys.readouterr().err


def _scored(capsys, *arguments):
    assert _evaluate(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_recall_of_labels(labelled, capsys):
    labels, ranking = labelled
    files = [f"--ground_truth={labels}", f"--ranking={ranking}"]
    recall = _scored(capsys, *files, "--protocol=recall")
    assert [recall[f"R@{k}"] for k in (1, 5)] == [0, 1]


@pytest.fixture
def gldv2_solutions(tmp_path):
    """Two scored queries and an ignored one, of two index images each."""
    retrieval = "id,images,Usage\nq0,a b,Public\nq1,c,Private\nq2,None,Ignored\n"
    (tmp_path / "retrieval.csv").write_text(retrieval)
    recognition = "id,landmarks,Usage\nq0,7,Public\nq1,8,Private\nq2,,Ignored\n"
    (tmp_path / "recognition.csv").write_text(recognition)
    (tmp_path / "train.csv").write_text("id,landmark_id\na,7\nb,7\nc,8\n")
    names = ("0/0/0/a.jpg", "b.jpg", "c.jpg")
    queries = ("q0.jpg", "q1.jpg", "q2.jpg")
    rows, scores = [[0, 2, 1], [1, 2, 0], [0, 1, 2]], [[0.9, 0.5, 0.1]] * 3
    ranking = Ranking(queries, names, rows, scores)
    return tmp_path, ranking_file.save_ranking(tmp_path / "r.npz", ranking)


def test_gldv2_retrieval_from_a_ranking_and_from_predictions(gldv2_solutions, capsys):
    root, ranking = gldv2_solutions
    truth = f"--ground_truth={root / 'retrieval.csv'}"
    direct = _scored(capsys, truth, f"--ranking={ranking}")
    # Right at 1 and 3 of 2; right at 2 of 1.
    assert direct["Public"]["mAP100"] == pytest.approx((1 + 2 / 3) / 2)
    assert direct["Private"]["mAP100"] == pytest.approx(0.5)
    predictions = root / "predictions.csv"
    predictions.write_text("id,images\nq0,a c b\nq1,b c a\nq2,\n")
    again = _scored(capsys, truth, f"--predictions={predictions}")
    assert again["Public"] == direct["Public"]


def test_gldv2_recognition_by_votes(gldv2_solutions, capsys):
    root, ranking = gldv2_solutions
    argv = [f"--ground_truth={root / 'recognition.csv'}", f"--ranking={ranking}"]
    argv += [f"--train_csv={root / 'train.csv'}", "--num_voters=1"]
    scored = _scored(capsys, *argv)
    assert scored["Public"]["gap"] == 1
    # b votes for 7, where 8 is right.
    assert scored["Private"]["gap"] == 0
    assert _evaluate(*argv[:2]) == 2
    assert "--train_csv must name" in capsys.readouterr().err


def test_golden_gldv2(golden_dir, capsys):
    folder = golden_dir / "delf" / "gldv2"
    expected = json.loads((folder / "expected.json").read_text())
    for kind, pairs in (
        ("recognition", (("gap", "GAP"), ("top1", "top1"))),
        ("retrieval", (("mAP100", "mAP100"), ("mean_position", "mean_position"))),
    ):
        scored = _scored(
            capsys,
            f"--ground_truth={folder / f'{kind}_solution.csv'}",
            f"--predictions={folder / f'{kind}_predictions.csv'}",
        )
        for usage in ("Public", "Private"):
            for ours, theirs in pairs:
                right = expected[kind][usage.lower()][theirs]
                assert scored[usage][ours] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranking=r.npz"], "--ground_truth must be given"),
        (["--ground_truth=l.csv"], "Either --ranking or --predictions"),
        (["--ground_truth=l.csv", "--ranking=r", "--predictions=p"], "Either --ranking or"),
    ],
)
def test_flags_that_do_not_fit(arguments, message, capsys):
    assert _evaluate(*arguments) == 2
    assert message in capsys.readouterr().err
