from __future__ import annotations

import numpy as np
import pytest

from delf_tf import matching
from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage import verification_files
from delf_tf.tools import main
from delf_tf.types import Ranking
from tests.tools import stores

# Views 0 and 1 of six places, and four images that show none.
IMAGES = {
    **stores.places(6, 2),
    **{f"-{n}_0": stores.place_features(-n, 0) for n in range(1, 5)},
}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return stores.make_store(tmp_path_factory.mktemp("rerank") / "db", IMAGES)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return stores.labels_file(tmp_path_factory.mktemp("rerank") / "labels.csv", IMAGES)


@pytest.fixture
def ranking(tmp_path):
    """Every image queries the rest; the right one comes fifth, of fifteen."""
    ids = tuple(IMAGES)
    rows = []
    for row, one in enumerate(ids):
        place = one.rsplit("_", 1)[0]
        others = [r for r in range(len(ids)) if r != row]
        right = [r for r in others if ids[r].rsplit("_", 1)[0] == place]
        wrong = [r for r in others if r not in right]
        rows.append(wrong[:4] + right + wrong[4:])
    scores = np.tile(np.linspace(0.9, 0.2, 15), (16, 1))
    made = Ranking(ids, ids, np.array(rows), scores)
    return ranking_file.save_ranking(tmp_path / "first.npz", made, queries_cropped=True)


@pytest.fixture
def rerank(database, ranking, tmp_path):
    def run(*arguments, output="new.npz"):
        argv = [f"--ranking={ranking}", f"--database_store={database}"]
        return main.main(
            ["delf_tf", "rerank", *argv, f"--output={tmp_path / output}", *map(str, arguments)]
        )

    return run


def _first_place(path):
    """How many of the twelve queries with a place have the right image first."""
    new = ranking_file.load_ranking(path)
    return sum(
        new.database_ids[new.indices[row, 0]].rsplit("_", 1)[0] == one.rsplit("_", 1)[0]
        for row, one in enumerate(new.query_ids)
        if not one.startswith("-")
    )


def test_the_head_is_sorted_and_the_rest_stays(rerank, ranking, tmp_path, capsys):
    assert rerank("--num_candidates=5") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new.npz'}\n"
    assert _first_place(tmp_path / "new.npz") == 12
    old, new = (ranking_file.load_ranking(p) for p in (ranking, tmp_path / "new.npz"))
    np.testing.assert_array_equal(np.sort(new.indices[:, :5]), np.sort(old.indices[:, :5]))
    np.testing.assert_array_equal(new.indices[:, 5:], old.indices[:, 5:])
    known = ranking_file.load_ranking_metadata(tmp_path / "new.npz")
    assert known["blind_reranking"] is True
    assert known["queries_cropped"] is True
    assert (known["score"], known["weight"], known["num_candidates"]) == ("inliers", None, 5)


def test_an_image_beyond_the_head_is_not_found(rerank, tmp_path):
    assert rerank("--num_candidates=4") == 0
    assert _first_place(tmp_path / "new.npz") == 0


def test_every_verification_is_kept(rerank, database, tmp_path):
    assert rerank("--num_candidates=5") == 0
    kept = verification_files.load_verifications(tmp_path / "new.verifications")
    assert [len(one) for one in kept] == [5] * 16
    store = FeatureStore(database)
    ids = tuple(IMAGES)
    for row, found in kept[0].items():
        direct = matching.verify(store.read_local(ids[0]), store.read_local(ids[row]), seed=0)
        assert found.num_inliers == direct.num_inliers
        np.testing.assert_array_equal(found.matches, direct.matches)


def test_a_killed_run_goes_on(rerank, tmp_path, monkeypatch):
    assert rerank("--num_candidates=5", output="whole.npz") == 0
    verify_many, done = matching.verify_many, []

    def killed(query, databases, **kwargs):
        if len(done) == 11:
            raise KeyboardInterrupt
        done.append(query)
        return verify_many(query, databases, **kwargs)

    monkeypatch.setattr(matching, "verify_many", killed, raising=False)
    assert rerank("--num_candidates=5") == 130
    assert not (tmp_path / "new.npz").exists()
    monkeypatch.setattr(matching, "verify_many", verify_many)
    done.clear()

    def counted(query, databases, **kwargs):
        done.append(query)
        return verify_many(query, databases, **kwargs)

    monkeypatch.setattr(matching, "verify_many", counted)
    assert rerank("--num_candidates=5") == 0
    # Eight of sixteen queries were on disk.
    assert len(done) == 8
    assert (tmp_path / "new.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    # Another score needs no verification; other settings of it do, in another folder.
    assert rerank("--num_candidates=5", "--score=weighted") == 0
    assert len(done) == 8
    assert rerank("--num_candidates=5", "--set=rerank.max_ratio=0.9") == 1
    assert rerank("--num_candidates=5", "--set=rerank.max_ratio=0.9", "--overwrite") == 0
    assert len(done) == 24


def test_query_store_and_config(rerank, database, tmp_path):
    held = FeatureStore(database).ids()
    queries = stores.make_store(tmp_path / "q", {"q": stores.place_features(3, 7)})
    made = Ranking(("q",), held, [list(range(16))], [np.linspace(1, 0, 16)])
    first = ranking_file.save_ranking(tmp_path / "q.npz", made)
    config = tmp_path / "c.textproto"
    config.write_text('rerank { num_candidates: 10 score: "weighted" transform: "similarity" }')
    argv = [f"--ranking={first}", f"--query_store={queries}", f"--config={config}"]
    assert rerank(*argv) == 0
    new = ranking_file.load_ranking(tmp_path / "new.npz")
    assert {held[row] for row in new.indices[0, :2]} == {"3_0", "3_1"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--score=best"], 1, "score must be one of"),
        (["--set=rerank.method=votes"], 1, "method must be one of verification"),
        (["--num_candidates=-1"], 2, "--num_candidates=-1"),
        (["--num_threads=0"], 2, "--num_threads=0"),
        (["--fit_probability", "--labels=none.csv"], 1, "none.csv"),
        (["--database_store=none"], 1, "none"),
        (["--ranking=none.npz"], 1, "none.npz"),
        (["--database_store=GLOBAL"], 1, "must hold local features"),
        (["--query_store=OTHER"], 1, "must be in the store"),
        (["--set=rerank.trnsform=affine"], 2, "Did you mean 'transform'"),
        (["x"], 2, "flags only"),
    ],
)
def test_bad_input_is_one_line(rerank, tmp_path, capsys, arguments, code, message):  # noqa: PLR0917
    one = {"z": stores.place_features(0, 0)}
    names = {
        "=GLOBAL": stores.make_store(tmp_path / "global", IMAGES, with_local=False),
        "=OTHER": stores.make_store(tmp_path / "other", one),
    }
    for short, path in names.items():
        arguments = [a.replace(short, f"={path}") if a.endswith(short) else a for a in arguments]
    assert rerank(*arguments) == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("delf_tf ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "new.npz").exists()


def test_a_fitted_probability_reorders(rerank, database, labels, tmp_path, capsys):
    files = [
        f"--ranking={tmp_path / 'first.npz'}",
        f"--database_store={database}",
        f"--labels={labels}",
    ]
    assert main.main(["delf_tf", "rerank", "--fit_probability", *files]) == 0
    section = capsys.readouterr().out
    assert section.startswith("probability { similarity: ")
    config = tmp_path / "config.textproto"
    config.write_text('rerank { score: "probability" num_candidates: 15 ' + section + "}")
    assert rerank(f"--config={config}") == 0
    assert _first_place(tmp_path / "new.npz") == 12
    assert rerank("--score=probability", output="none.npz") == 1
    assert "fitted PairProbability" in capsys.readouterr().err


def test_a_head_is_sorted_by_all_of_its_pairs(rerank, tmp_path, capsys):
    config, kept = tmp_path / "config.textproto", tmp_path / "pairs"
    section = "probability { similarity: 1 evidence: 2 intercept: -4 }"
    config.write_text(
        f'rerank {{ method: "embedding" database_pairs: "{kept}" num_neighbors: 5 {section} }}'
    )
    assert rerank(f"--config={config}", "--num_candidates=5") == 0
    assert _first_place(tmp_path / "new.npz") == 12
    pairs = verification_files.load_verifications(kept)
    assert [len(one) for one in pairs] == [5] * 16
    known = ranking_file.load_ranking_metadata(tmp_path / "new.npz")
    assert known["method"] == "embedding"
    # The same pairs serve another method; other settings refuse them.
    files = sorted((one.name, one.stat().st_mtime_ns) for one in kept.iterdir())
    again = config.read_text().replace("embedding", "diffusion")
    config.write_text(again)
    assert rerank(f"--config={config}", "--num_candidates=5", output="b.npz") == 0
    assert sorted((one.name, one.stat().st_mtime_ns) for one in kept.iterdir()) == files
    config.write_text(again.replace("num_neighbors: 5", "num_neighbors: 6"))
    assert rerank(f"--config={config}", output="c.npz") == 1
    assert "this ranking, these features and settings" in capsys.readouterr().err
    config.write_text(again.replace(section, ""))
    assert rerank(f"--config={config}", output="d.npz") == 1
    assert "Set rerank.probability" in capsys.readouterr().err
