"""What a Python user does in five lines, and that tools do the same."""

from __future__ import annotations

import pytest
from PIL import Image

import delf_tf
from delf_tf.checks import InputError, UsageError
from delf_tf.datasets import images
from delf_tf.retrieval import ranking_file
from delf_tf.tools import main
from tests.tools import painted

CONFIG = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 1 }
extraction { max_image_size: 96 use_local_features: true max_num_features: 30 local_pca { dim: 8 } }
rerank { num_candidates: 3 }
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three places with two equal views each, and two distractors."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    painted.write_places(root / "images", root / "labels.csv")
    (root / "c.textproto").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def model(root):
    return delf_tf.open_model(str(root / "c.textproto"))


@pytest.fixture(scope="module")
def photos(root, model):
    return model.extract(root / "images", root / "features")


def test_a_picture_of_the_collection_finds_its_other_view(root, photos):
    found = photos.search(root / "images" / "1_0.jpg")
    assert len(found) == 7
    assert found[0].id == "1_1.jpg"
    assert found[0].path == root / "images" / "1_1.jpg"
    assert found[0].num_inliers is None
    assert "1_0.jpg" not in [hit.id for hit in found]


def test_re_ranking_verifies_the_head_alone(root, photos):
    found = photos.search(root / "images" / "1_0.jpg").rerank()
    assert found[0].id == "1_1.jpg"
    assert found[0].num_inliers > 3
    assert [hit.num_inliers is None for hit in found] == [False] * 3 + [True] * 4
    assert f"similarity {found[0].score:.3f}, {found[0].num_inliers} inliers" in repr(found)


def test_pixels_and_new_files_are_searched_with_whole(root, photos, tmp_path):
    with Image.open(root / "images" / "2_0.jpg") as image:
        image.save(tmp_path / "query.png")
    file = photos.search(tmp_path / "query.png", max_results=3)
    assert sorted(hit.id for hit in file[:2]) == ["2_0.jpg", "2_1.jpg"]
    assert file[0].score == pytest.approx(1, abs=1e-4)
    assert len(file) == 3
    pixels = images.read_image(delf_tf.ImageRef("x", tmp_path / "query.png"))
    again = photos.search(pixels, max_results=3)
    assert [hit.id for hit in again] == [hit.id for hit in file]


def test_found_shows_itself(root, photos):
    found = photos.search(root / "images" / "1_0.jpg")
    axes = found.show(num_results=4).axes
    assert len(axes) == 5
    assert axes[1].get_title().startswith(f"{found[0].id}\nsimilarity ")
    assert found._repr_html_().startswith('<img src="data:image/png;base64,')


def test_tools_do_the_same(root, photos, tmp_path):
    argv = [f"--config={root / 'c.textproto'}", f"--database_dir={root / 'images'}"]
    argv += ["--num_report_queries=0", f"--output_dir={tmp_path}"]
    assert main.main(["delf_tf", "retrieve", *argv]) == 0
    for file in sorted((tmp_path / "database").glob("*.safetensors")):
        assert file.read_bytes() == (root / "features" / "database" / file.name).read_bytes()
    for name, rerank in (("ranking_single_stage.npz", False), ("ranking.npz", True)):
        ranking = ranking_file.load_ranking(tmp_path / name)
        for row, query in enumerate(ranking.query_ids):
            found = photos.search(root / "images" / query)
            found = found.rerank() if rerank else found
            ids = [ranking.database_ids[index] for index in ranking.indices[row]]
            assert [hit.id for hit in found] == ids


def test_a_folder_is_opened_again_without_its_config(root, photos):
    again = delf_tf.open_photos(root / "features")
    assert len(again) == len(photos) == 8
    first = again.search(root / "images" / "0_1.jpg")
    assert first[0].id == "0_0.jpg"


def test_one_network_serves_several_folders(root, model, photos, tmp_path):
    other = model.extract(root / "images", tmp_path / "other")
    assert other.runtime.network is photos.runtime.network


def test_mistakes_are_told(root, photos, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'compact'"):
        delf_tf.open_model("compct")
    with pytest.raises(InputError, match="must exist"):
        photos.search(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="folder of retrieve"):
        delf_tf.open_photos(tmp_path)
    single = delf_tf.open_model(
        str(root / "c.textproto"), overrides=["rerank=", "extraction.use_local_features=false"]
    )
    with pytest.raises(InputError, match="fingerprint"):
        single.extract(root / "images", root / "features")
    found = single.extract(root / "images", tmp_path / "f").search(root / "images" / "0_0.jpg")
    with pytest.raises(InputError, match="Re-ranking needs local features"):
        found.rerank()
