"""ASMK and the local index through build_index and search."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import local_search, ranking_file, votes
from delf_tf.retrieval.words import asmk, codebook
from delf_tf.tools import main
from tests.tools import stores

TYPES = {
    "asmk": ["--type=asmk", "--num_words=64"],
    "local": [
        "--type=local",
        "--set=index.local.factory=IVF4,PQ4x6",
        "--set=index.local.num_neighbors=3",
    ],
}


def _build(database, *arguments):
    return main.main(
        ["delf_tf", "build_index", f"--database_store={database}", *map(str, arguments)]
    )


def _search(output, *arguments):
    assert main.main(["delf_tf", "search", f"--output={output}", *map(str, arguments)]) == 0
    return ranking_file.load_ranking(output)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    images = {**stores.places(8, 2), "-1_0": stores.place_features(-1, 0, num_local=0)}
    return stores.make_store(tmp_path_factory.mktemp("local") / "db", images, with_global=False)


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    images = stores.places(8, 1, first_view=5)
    return stores.make_store(tmp_path_factory.mktemp("local") / "q", images, with_global=False)


def test_a_build_killed_at_its_first_file_is_begun_again(database, tmp_path):
    built = tmp_path / "index"
    built.mkdir()
    (built / ".manifest.json.895c9bd6.tmp").write_text("{")
    assert _build(database, f"--output={built}", *TYPES["asmk"]) == 0
    assert not list(built.glob(".*"))


def test_a_removal_killed_before_its_end_can_be_ended(database, tmp_path, monkeypatch):
    built = tmp_path / "index"
    assert _build(database, f"--output={built}", *TYPES["asmk"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(local_search.shutil, "rmtree", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _build(database, f"--output={built}", *TYPES["local"], "--overwrite")
    assert [one.name for one in built.iterdir()] == ["manifest.json"]
    assert _build(database, f"--output={built}", *TYPES["local"], "--overwrite") == 0


@pytest.mark.parametrize("kind", TYPES)
def test_both_views_of_a_place_come_first(kind, database, queries, tmp_path, capsys):
    built = tmp_path / "index"
    assert _build(database, f"--output={built}", *TYPES[kind]) == 0
    assert capsys.readouterr().out == f"{built}\n"
    asked = f"--query_store={queries}"
    ranking = _search(tmp_path / "a.npz", f"--index={built}", asked, "--max_results=2")
    for row, one in enumerate(ranking.query_ids):
        found = {ranking.database_ids[image] for image in ranking.indices[row]}
        assert found == {f"{one[0]}_0", f"{one[0]}_1"}
    # Without a kept index, the same.
    sets = [f"--set=index.type={kind}", "--set=index.asmk.num_words=64", *TYPES["local"][1:]]
    direct = _search(tmp_path / "b.npz", f"--database_store={database}", asked, *sets)
    np.testing.assert_array_equal(direct.indices[:, :2], ranking.indices)
    alone = _search(tmp_path / "c.npz", f"--index={built}", f"--database_store={database}")
    assert alone.query_ids == alone.database_ids
    for row, one in enumerate(alone.query_ids[:16]):
        assert row not in alone.indices[row]
        assert alone.database_ids[alone.indices[row, 0]][0] == one[0]


def test_scores_are_the_librarys_and_a_codebook_is_used_again(database, queries, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert _build(database, f"--output={first}", *TYPES["asmk"], "--set=index.asmk.alpha=2") == 0
    words = codebook.load_codebook(first / "codebook")
    assert words.shape == (64, stores.LOCAL_DIM)
    made = asmk.AsmkIndex(words, alpha=2)
    store = FeatureStore(database)
    made.add_all((one, store.read_local(one).descriptors) for one in store.ids())
    asked = FeatureStore(queries)
    ranking = _search(tmp_path / "a.npz", f"--index={first}", f"--query_store={queries}")
    expected = made.scores(asked.read_local(asked.ids()[0]).descriptors)
    got = np.zeros(len(expected))
    got[ranking.indices[0]] = ranking.scores[0]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    more = ["--type=asmk", f"--codebook={first / 'codebook'}", "--set=index.asmk.alpha=2"]
    assert _build(database, f"--output={second}", *more) == 0
    assert (second / "index").read_bytes() == (first / "index").read_bytes()


@pytest.mark.parametrize("kind", TYPES)
def test_a_killed_build_goes_on(kind, database, tmp_path, monkeypatch, capsys):
    whole, built = tmp_path / "whole", tmp_path / "built"
    assert _build(database, f"--output={whole}", *TYPES[kind]) == 0
    cls = asmk.AsmkIndex if kind == "asmk" else votes.LocalIndex
    add = cls.add

    def killed(self, image_id, *arguments):
        if image_id == "4_0":
            raise KeyboardInterrupt
        add(self, image_id, *arguments)

    monkeypatch.setattr(cls, "add", killed)
    assert _build(database, f"--output={built}", *TYPES[kind]) == 130
    monkeypatch.setattr(cls, "add", add)
    argv = ["search", f"--index={built}", f"--query_store={database}", "--output=r.npz"]
    assert main.main(["delf_tf", *argv]) == 1
    assert "it goes on" in capsys.readouterr().err
    # Other settings do not go on with what was learned.
    other = ["--set=index.asmk.alpha=4", "--set=index.local.num_probes=2"]
    assert _build(database, f"--output={built}", *TYPES[kind], *other) == 1
    assert "begun with other settings" in capsys.readouterr().err
    assert _build(database, f"--output={built}", *TYPES[kind]) == 0
    assert (built / "index").read_bytes() == (whole / "index").read_bytes()
    # Finished, it follows its store, which is as it was.
    assert _build(database, f"--output={built}", *TYPES[kind]) == 0
    assert (built / "index").read_bytes() == (whole / "index").read_bytes()
    assert _build(database, f"--output={built}", *TYPES[kind], *other) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert _build(database, f"--output={built}", *TYPES[kind], *other, "--overwrite") == 0


@pytest.mark.parametrize("kind", TYPES)
def test_images_are_added(kind, database, queries, tmp_path):
    built = tmp_path / "index"
    assert _build(database, f"--output={built}", *TYPES[kind]) == 0
    more = stores.make_store(
        tmp_path / "more",
        {"3_0": stores.place_features(3, 0), "3_7": stores.place_features(3, 7)},
        with_global=False,
    )
    assert _build(more, f"--add_to={built}") == 0
    ranking = _search(tmp_path / "r.npz", f"--index={built}", f"--query_store={queries}")
    assert len(ranking.database_ids) == 18
    best = {ranking.database_ids[image] for image in ranking.indices[3, :3]}
    assert best == {"3_0", "3_1", "3_7"}


def test_images_are_taken_out(database, queries, tmp_path, capsys):
    built = tmp_path / "index"
    assert _build(database, f"--output={built}", *TYPES["local"]) == 0
    remove = ["delf_tf", "build_index", f"--remove_from={built}"]
    assert main.main([*remove, "--ids=3_0,5_1"]) == 0
    ranking = _search(tmp_path / "r.npz", f"--index={built}", f"--query_store={queries}")
    assert len(ranking.database_ids) == 15
    assert not {"3_0", "5_1"} & set(ranking.database_ids)
    for place, left in ((3, "3_1"), (5, "5_0")):
        assert ranking.database_ids[ranking.indices[place, 0]] == left
    assert main.main(remove) == 2
    assert main.main([*remove, "--ids=3_0"]) == 1
    assert "must hold the images" in capsys.readouterr().err
    words = tmp_path / "words"
    assert _build(database, f"--output={words}", *TYPES["asmk"]) == 0
    assert main.main([*remove[:2], f"--remove_from={words}", "--ids=3_0,5_1"]) == 0
    ranking = _search(tmp_path / "w.npz", f"--index={words}", f"--query_store={queries}")
    assert len(ranking.database_ids) == 15
    assert not {"3_0", "5_1"} & set(ranking.database_ids)
    assert ranking.database_ids[ranking.indices[3, 0]] == "3_1"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--type=asmk"], 1, "at least as many features as words"),
        (["--type=asmk", "--codebook=none"], 1, "none"),
        (["--type=asmk", "--num_words=0"], 2, "num_words"),
        (["--type=asmk", "--num_words=9", "--set=index.asmk.alpha=-1"], 1, "alpha"),
        (["--type=local", "--set=index.local.factory=PQ4x4"], 1, "factory must be"),
        (["--type=local", "--whitening=w.npz"], 1, "need an index of global descriptors"),
        (["--type=asmk", "--set=query_expansion.alpha=1"], 1, "query_expansion"),
    ],
)
def test_bad_input_is_one_line(database, tmp_path, capsys, arguments, code, message):  # noqa: PLR0917
    assert _build(database, f"--output={tmp_path / 'x'}", *arguments) == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("delf_tf ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "x" / "index").exists()


def test_damage_and_other_features(database, queries, tmp_path, capsys):
    built = tmp_path / "index"
    assert _build(database, f"--output={built}", *TYPES["asmk"]) == 0
    argv = ["search", f"--index={built}", f"--output={tmp_path / 'r.npz'}"]
    other = stores.make_store(tmp_path / "o", stores.places(1, 1), fingerprint="0" * 16)
    assert main.main(["delf_tf", *argv, f"--query_store={other}"]) == 1
    assert "made of the features" in capsys.readouterr().err
    raw = (built / "index").read_bytes()
    for content in (raw[:-1], raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], b""):
        (built / "index").write_bytes(content)
        assert main.main(["delf_tf", *argv, f"--query_store={queries}"]) == 1
    (built / "manifest.json").write_text("[]")
    assert main.main(["delf_tf", *argv, f"--query_store={queries}"]) == 1
    assert "manifest" in capsys.readouterr().err
