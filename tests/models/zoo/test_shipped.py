"""The package's own weights: whole, checked, small enough, and better than chance."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf import config, synthetic
from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.zoo import checkpoint, shipped


@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_files_are_whole_and_say_what_they_are(name):
    record = shipped.SHIPPED[name]
    path = shipped.shipped_weights(name)
    assert path.stat().st_size <= 20e6
    options = checkpoint.read_options(path)
    assert options["name"] == record.model
    settings = config.load_experiment(record.config).model
    assert (settings.name, settings.weights) == (record.model, name)


def test_the_default_names_its_sources(repository):
    provenance = checkpoint.read_options(shipped.shipped_weights("compact"))["provenance"]
    assert provenance["num_training_images"] == 1051
    sources = provenance["initial_weights"]["provenance"]
    notice = (repository / "NOTICE").read_text(encoding="utf-8")
    for part, name in (("backbone", "EfficientNet-Lite2"), ("local", "XFeat")):
        assert len(sources[part]["sha256"]) == 64
        assert name in notice


def test_a_changed_file_is_refused(monkeypatch):
    changed = shipped.SHIPPED["compact"]._replace(sha256="0" * 64)
    monkeypatch.setitem(shipped.SHIPPED, "compact", changed)
    with pytest.raises(InputError, match="file that was shipped"):
        shipped.shipped_weights("compact")
    with pytest.raises(InputError, match="Did you mean 'compact'"):
        shipped.shipped_weights("compct")


def test_views_of_a_landmark_lie_closer_than_others():
    model = create_model(shipped.SHIPPED["compact"].model, weights="compact")
    views = [
        synthetic.render_view(landmark, view, (192, 256))
        for landmark in (901, 902, 903, 904)
        for view in (0, 1, 2)
    ]
    vectors = model(np.stack(views).astype(np.float32), outputs=("global",))["global"].numpy()
    similarity = vectors @ vectors.T
    place = np.arange(12) // 3
    same = (place[:, np.newaxis] == place) & ~np.eye(12, dtype=bool)
    other = place[:, np.newaxis] != place
    assert similarity[same].mean() > similarity[other].mean()
    np.fill_diagonal(similarity, -1)
    # A view's nearest is another of its landmark for 2 of 11 by chance.
    assert (place[similarity.argmax(axis=1)] == place).sum() >= 6


def test_a_folder_called_like_them_does_not_hide_them(tmp_path, monkeypatch):
    (tmp_path / "compact").mkdir()
    monkeypatch.chdir(tmp_path)
    assert create_model("compact_efficientnet_lite2", "compact").global_dim == 1024
