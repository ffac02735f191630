"""Batches of padded images give what each image gives alone."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.extraction.batches import BatchExtractor
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.settings import Projection
from delf_tf.models.create import create_model

SMALL = {"width_multiplier": 0.125, "attention_dim": 8}
SIZES = [(70, 101), (128, 64), (63, 127), (97, 97), (200, 33)]


def _images(sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def _assert_same(extractor, images, **options):
    batches = BatchExtractor(extractor, **options)
    found = batches(images)
    assert len(found) == len(images)
    for image, features in zip(images, found):
        alone = extractor(image)
        assert features.keys() == alone.keys()
        for name, values in alone.items():
            assert features[name].shape == values.shape
            np.testing.assert_allclose(features[name], values, atol=1e-5, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("delg_resnet14", {**SMALL, "embedding_dim": 16, "local_dim": 12}, SIZES),
        # Two of one bucket: what their networks do does not depend on the shape of the padding.
        ("delf_resnet14", SMALL, SIZES[::3]),
        (
            "delg_mobilenet_v2",
            {**SMALL, "embedding_dim": 16, "local_dim": 12},
            SIZES[::3],
        ),
        ("gem_mobilenet_v2", {"width_multiplier": 0.25}, SIZES[::3]),
        (
            "compact_resnet20",
            {**SMALL, "feature_dim": 24, "fusion_dim": 8, "local_dim": 6},
            SIZES[::3],
        ),
    ],
)
def test_local_and_global_of_unlike_sizes(name, options, sizes):
    model = create_model(name, seed=0, **options)
    extractor = Extractor(
        model,
        image_scales=(1.0, 0.7071),
        global_scales_ind=(1,),
        use_local_features=True,
        max_num_features=40,
    )
    _assert_same(extractor, _images(sizes), batch_size=3, bucket_px=64)


@pytest.mark.parametrize(("fusion", "pooling"), [("orthogonal", "average"), ("hadamard", "gem")])
def test_fused_descriptors(fusion, pooling):
    model = create_model(
        "dolg_resnet14",
        seed=0,
        width_multiplier=0.125,
        fusion_dim=8,
        embedding_dim=6,
        fusion=fusion,
        local_pooling=pooling,
    )
    _assert_same(Extractor(model, image_scales=(1.0,)), _images(SIZES[:3]), batch_size=4)


def test_border_cells_and_projection():
    model = create_model("delg_resnet14", seed=0, embedding_dim=16, local_dim=12, **SMALL)
    rng = np.random.default_rng(1)
    extractor = Extractor(
        model,
        use_local_features=True,
        max_num_features=10,
        border_cells=1,
        local_projection=Projection(
            rng.normal(size=12).astype(np.float32), rng.normal(size=(5, 12)).astype(np.float32)
        ),
    )
    _assert_same(extractor, _images(SIZES[:2]), batch_size=2)


def test_no_images():
    model = create_model("gem_mobilenet_v2", seed=0, width_multiplier=0.25)
    assert BatchExtractor(Extractor(model))([]) == []


def test_networks_that_cannot_be_masked_are_refused():
    keras = create_model("delg_resnet14", seed=0, backbone_form="keras", **SMALL)
    with pytest.raises(InputError, match="symmetrically"):
        BatchExtractor(Extractor(keras))
    fire = create_model("superfeatures_resnet14", seed=0, width_multiplier=0.125)
    with pytest.raises(InputError, match="symmetrically"):
        BatchExtractor(Extractor(fire, use_global_features=False, use_local_features=True))
    model = create_model("gem_mobilenet_v2", seed=0, width_multiplier=0.25)
    with pytest.raises(InputError, match="multiple of 64"):
        BatchExtractor(Extractor(model), bucket_px=100)
    with pytest.raises(InputError, match="batch_size"):
        BatchExtractor(Extractor(model), batch_size=0)
