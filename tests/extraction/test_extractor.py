from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf import create_model
from delf_tf.checks import InputError
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.settings import Projection
from tests.extraction.toy import ToyModel, coordinates_image


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0, 0.7071])
def test_locations_are_true_at_every_scale(scale):
    extractor = Extractor(
        ToyModel(), image_scales=[scale], use_global_features=False, use_local_features=True
    )
    features = extractor(coordinates_image(200, 250))
    descriptors = features["descriptors"].numpy()
    # The third component is 1 before normalisation, the first two are the cell's mean row, column.
    told = descriptors[:, :2] / descriptors[:, 2:]
    assert len(told) >= 4
    # Resizing repeats the border, which moves the mean of cells at the border alone.
    inside = ((told > 4) & (told < np.array([195, 245]))).all(axis=1)
    np.testing.assert_allclose(features["locations"].numpy()[inside], told[inside], atol=0.51)
    np.testing.assert_allclose(features["scales"], 1 / scale, rtol=1e-6)


def test_scales_compete_and_only_asked_for_outputs_are_computed():
    model = ToyModel()
    extractor = Extractor(
        model,
        image_scales=[0.5, 1.0, 2.0],
        global_scales_ind=[1],
        use_local_features=True,
        max_num_features=7,
    )
    image = coordinates_image(64, 96)
    image[:32, :, 2] = 200
    features = extractor(image)
    assert model.seen == [("local",), ("global", "local"), ("local",)]
    assert features["locations"].shape == (7, 2)
    scores = features["scores"].numpy()
    assert (np.diff(scores) <= 0).all()
    assert (features["locations"].numpy()[:, 0] < 40).all()


def test_the_network_is_traced_as_it_stands():
    """AutoGraph takes two seconds to find nothing to convert in a network of ours."""
    statuses = []

    class Watching(ToyModel):
        def __call__(self, *args, **kwargs):
            statuses.append(tf.__internal__.autograph.control_status_ctx().status.name)
            return super().__call__(*args, **kwargs)

    Extractor(Watching())(coordinates_image(64, 64))
    assert statuses
    assert "ENABLED" not in statuses


def test_scales_without_a_use_are_skipped():
    model = ToyModel()
    Extractor(model, image_scales=[0.5, 1.0], global_scales_ind=[1])(coordinates_image(32, 32))
    assert model.seen == [("global",)]


def test_global_descriptor_sums_scales_and_normalises():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0], image[..., 1] = 30, 40
    vector = Extractor(ToyModel(), image_scales=[1.0, 0.5])(image)["global_descriptor"]
    np.testing.assert_allclose(vector, [0.6, 0.8, 0.0], atol=1e-6)


def test_projection_follows_the_original(golden_dir):
    golden = np.load(golden_dir / "delf/inference/inference.npz")
    deviations = np.sqrt(golden["pca_var"][:16, np.newaxis])
    for name, matrix in (
        ("pca_out_whiten0", golden["pca_matrix"][:16]),
        ("pca_out_whiten1", golden["pca_matrix"][:16] / deviations),
    ):
        from delf_tf.extraction import extractor

        constants = extractor.as_constants(Projection(golden["pca_mean"], matrix))
        projected = extractor.project(golden["pca_x"], constants)
        np.testing.assert_allclose(projected, golden[name], atol=2e-6)


def test_score_threshold_may_leave_nothing():
    extractor = Extractor(
        ToyModel(), use_global_features=False, use_local_features=True, score_threshold=300
    )
    features = extractor(coordinates_image(64, 64))
    assert features["locations"].shape == (0, 2)
    assert features["descriptors"].shape == (0, 3)


def test_border_cells_are_dropped_at_every_scale():
    extractor = Extractor(
        ToyModel(),
        image_scales=[1.0, 2.0],
        use_global_features=False,
        use_local_features=True,
        border_cells=1,
    )
    features = extractor(coordinates_image(64, 80))
    locations, scales = features["locations"].numpy(), features["scales"].numpy()
    # 4 x 5 cells at scale 1, 8 x 10 at scale 2.
    assert ((scales == 1).sum(), (scales == 0.5).sum()) == (2 * 3, 6 * 8)
    assert locations[scales == 1].min() == 16 + 7.5
    assert len(extractor(coordinates_image(32, 32))["locations"]) == 2 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_global_features": False}, "global features, local features, or both"),
        ({"image_scales": [1.0], "global_scales_ind": [1]}, "global_scales_ind"),
        ({"max_num_features": 0}, "max_num_features must be at least 1"),
        ({"global_projection": Projection(np.zeros(3), np.zeros((2, 4)))}, "global_projection"),
        ({"image_scales": []}, "image_scales"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        Extractor(ToyModel(), **options)


def test_features_the_model_does_not_give():
    class GlobalOnly(ToyModel):
        output_names_available = ("global",)

    with pytest.raises(InputError, match="must give local features"):
        Extractor(GlobalOnly(), use_local_features=True)


def test_offsets_repeat_with_the_period_of_the_strides():
    model = create_model("gem_mobilenet_v2", width_multiplier=0.35, seed=0)
    for size in (100, 101, 331, 512):
        assert model.local_offset(size) == model.local_offset(512 + size % 64)


def test_a_real_model_end_to_end_is_repeatable():
    model = create_model("gem_mobilenet_v2", width_multiplier=0.35, seed=0)
    extractor = Extractor(
        model, image_scales=[1.0, 0.5], use_local_features=True, max_num_features=20
    )
    image = np.random.RandomState(0).randint(0, 256, (97, 130, 3), np.uint8)
    one, two = extractor(image), extractor(image)
    assert one["descriptors"].shape == (20, model.local_dim)
    np.testing.assert_allclose(np.linalg.norm(one["global_descriptor"]), 1, atol=1e-5)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("scale", [0.7071, 1.0, 2.0])
def test_a_scale_of_the_graph_is_as_good_as_a_number(scale):
    extractor = Extractor(ToyModel(), use_local_features=True)
    image = coordinates_image(70, 90)
    by_number = extractor.level(image, scale, True, True)
    by_tensor = extractor.level(image, tf.constant(scale), True, True)
    assert sorted(by_number) == ["descriptors", "global", "locations", "scales", "scores"]
    for name, value in by_number.items():
        np.testing.assert_allclose(by_tensor[name], value, rtol=1e-6, atol=1e-5)
