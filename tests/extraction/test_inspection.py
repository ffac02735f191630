from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from delf_tf import create_model
from delf_tf.checks import InputError
from delf_tf.extraction import inspection

IMAGE = np.random.RandomState(0).randint(0, 256, (64, 96, 3), np.uint8)


def _model(family, **options):
    return create_model(f"{family}_mobilenet_v2", width_multiplier=0.35, seed=0, **options)


@pytest.mark.parametrize(
    ("family", "title"), [("delf", "attention"), ("gem", "norm of local features")]
)
def test_attention_is_the_models_score(family, title):
    model = _model(family)
    (shown,) = inspection.network_maps(model, IMAGE)
    assert shown.title == title
    want = model(IMAGE[None].astype("f"), outputs=("local",))["scores"][0]
    np.testing.assert_allclose(shown.values, want, rtol=1e-5)
    assert shown.values.shape == (4, 6)
    assert shown.offset == (model.local_offset(64), model.local_offset(96))
    assert shown.stride == 16


def test_strongest_superfeatures_first():
    model = _model("superfeatures", num_superfeatures=5, superfeature_dim=8, local_dim=4)
    shown = inspection.network_maps(model, IMAGE, max_num_superfeatures=2)
    outputs = model(IMAGE[None].astype("f"))
    order = np.argsort(-outputs["strengths"][0].numpy())[:2]
    assert [one.title.split(",")[0] for one in shown] == [f"super-feature {k}" for k in order]
    for one, index in zip(shown, order):
        np.testing.assert_allclose(one.values, outputs["attention"][0, index], rtol=1e-4)
    assert len(inspection.network_maps(model, IMAGE, max_num_superfeatures=99)) == 5


def test_orthogonal_energy_is_what_is_left_beside_the_global_feature():
    model = _model("dolg", fusion_dim=8, embedding_dim=4)
    attention, energy = inspection.network_maps(model, IMAGE)
    assert (attention.title, energy.title) == ("attention", "orthogonal energy")
    maps = model.backbone(model.preprocess(IMAGE[None].astype("f")), training=False)
    g = model.project_global(model.pooling(maps["stride32"]))[0].numpy().astype(float)
    local, weights = model.local_branch(maps["stride16"], False)
    local = local[0].numpy().astype(float)
    orthogonal = local - (local @ g / (g @ g))[..., None] * g
    np.testing.assert_allclose(energy.values, (orthogonal**2).sum(-1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(attention.values, weights[0], rtol=1e-5)


def test_a_network_with_nothing_to_show():
    model = SimpleNamespace(output_names_available=("global",), options={"name": "global_only"})
    with pytest.raises(InputError, match="to show"):
        inspection.network_maps(model, IMAGE)
