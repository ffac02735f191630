from __future__ import annotations

import numpy as np
import pytest

from delf_tf.features.store import FeatureStore
from delf_tf.tools import main
from tests.tools import stores


def _convert(*arguments):
    return main.main(["delf_tf", "convert_features", *map(str, arguments)])


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store", stores.places(2, 2))


@pytest.mark.parametrize(("format_", "name"), [("delf", "there"), ("hloc", "there.h5")])
def test_there_and_back(store, tmp_path, format_, name, capsys):
    there, back = tmp_path / name, tmp_path / "back"
    assert _convert(f"--export_format={format_}", f"--input={store}", f"--output={there}") == 0
    assert capsys.readouterr().out.strip() == str(there)
    assert _convert(f"--import_format={format_}", f"--input={there}", f"--output={back}") == 0
    before, after = FeatureStore(store), FeatureStore(back)
    assert after.ids() == before.ids()
    for one in before.ids():
        ours, theirs = before.read(one), after.read(one)
        np.testing.assert_allclose(theirs.global_descriptor, ours.global_descriptor, atol=1e-6)
        # hloc keeps descriptors in half precision and sorts by score.
        assert len(theirs.local.locations) == len(ours.local.locations)
        np.testing.assert_allclose(theirs.local.locations, ours.local.locations, atol=1e-3)
        np.testing.assert_allclose(theirs.local.descriptors, ours.local.descriptors, atol=1e-3)


def test_global_descriptors_alone(store, tmp_path):
    there, back = tmp_path / "there.npy", tmp_path / "back"
    assert _convert("--export_format=npy", f"--input={store}", f"--output={there}") == 0
    assert np.load(there).shape == (4, stores.GLOBAL_DIM)
    assert _convert("--import_format=npy", f"--input={there}", f"--output={back}") == 0
    assert FeatureStore(back).local_dim is None


def test_a_smaller_copy(store, tmp_path, capsys):
    small = tmp_path / "small"
    assert _convert(f"--input={store}", f"--output={small}", "--local_codec=int8") == 0
    assert capsys.readouterr().out.strip() == str(small)
    before, after = FeatureStore(store), FeatureStore(small)
    assert after.ids() == before.ids()
    one = before.ids()[0]
    np.testing.assert_array_equal(
        after.read(one).global_descriptor, before.read(one).global_descriptor
    )
    ours, theirs = before.read_local(one).descriptors, after.read_local(one).descriptors
    assert (ours * theirs).sum(1).mean() > 0.5
    assert _convert(f"--input={store}", f"--output={tmp_path / 'x'}", "--local_codec=zip") == 1
    assert "local_codec must be" in capsys.readouterr().err


def test_mistakes(store, tmp_path, capsys):
    files = [f"--input={store}", f"--output={tmp_path / 'x'}"]
    assert _convert("--import_format=delf", "--export_format=delf", *files) == 2
    assert "Either --import_format or --export_format" in capsys.readouterr().err
    assert _convert("--export_format=nopy", *files) == 2
    assert _convert("--export_format=delf", f"--input={tmp_path}", files[1]) == 1
    assert _convert("--import_format=hloc", *files) == 1
    (tmp_path / "x").mkdir(exist_ok=True)
    (tmp_path / "x" / "mine").write_text("kept")
    assert _convert("--export_format=delf", *files) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "x" / "mine").read_text() == "kept"
