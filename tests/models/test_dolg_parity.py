"""DOLG against the authors' network, through the converter: both forms, every intermediate map."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.models.losses.classifiers import CurricularFaceClassifier
from delf_tf.models.zoo import conversion
from tests.golden_arrays import multiscale_image
from tests.golden_weights import golden_image, regenerate, relative_error

FORMS = {"dolg_r50": True, "dolg_r50_no_multi_atrous": False}


@pytest.fixture(scope="module", params=FORMS)
def case(request, repository):
    folder = repository / "tests/golden/models"
    arrays = regenerate(folder / f"{request.param}_state_dict.json")
    with np.load(folder / f"{request.param}.npz") as archive:
        golden = dict(archive)
    return FORMS[request.param], arrays, golden, conversion.convert_arrays("dolg_pytorch", arrays)


def _rgb():
    return golden_image()[..., ::-1] * 255


def test_the_form_is_chosen_by_the_tensors(case):
    multi_atrous, _, _, model = case
    assert model.options["kwargs"]["multi_atrous"] is multi_atrous
    assert model.options["preprocessing"]["channel_order"] == "BGR"


def test_maps_equal_the_authors(case):
    _, _, golden, model = case
    maps = model.backbone(model.preprocess(_rgb()))
    for stage, level in (("stage3", "stride16"), ("stage4", "stride32")):
        x = np.asarray(maps[level]).transpose(0, 3, 1, 2).ravel()
        stats = [x.mean(), x.std(), np.abs(x).max()]
        np.testing.assert_allclose(stats, golden[f"{stage}_stats"], rtol=1e-4)
        sample = x[:: x.size // 64][:64]
        assert relative_error(sample, golden[f"{stage}_slice"]) < 1e-4
    local, attention = model.local_branch(maps["stride16"], False)
    stats = [np.mean(local), np.std(local), np.abs(local).max()]
    np.testing.assert_allclose(stats, golden["local_stats"], rtol=1e-4)
    assert relative_error(attention[0], golden["attention"]) < 1e-4
    pooled = model.pooling(maps["stride32"])
    assert relative_error(pooled[0], golden["gem"]) < 1e-4
    projected = model.project_global(pooled)
    assert relative_error(projected[0], golden["global_projected"]) < 1e-4
    fused = model.fuse(local, projected)
    assert relative_error(fused[0, 1024:], golden["orthogonal_mean"]) < 1e-4


def test_descriptor_equals_the_authors(case):
    _, _, golden, model = case
    assert relative_error(model.embed(_rgb(), False)[0], golden["descriptor"]) < 1e-4
    unit = golden["descriptor"] / np.linalg.norm(golden["descriptor"])
    assert relative_error(model(_rgb())["global"][0], unit) < 1e-4


def test_logits_equal_the_authors(case):
    _, arrays, golden, _ = case
    # The reference made these with the head's scale at 128 instead of the released 30.
    head = CurricularFaceClassifier(7, scale=128.0)
    head.build((None, 512))
    head.class_centres.assign(arrays["desc_cls.weight"])
    logits, _ = head(golden["descriptor"][np.newaxis], np.array([3]), training=True)
    assert relative_error(logits[0], golden["logits_class3"]) < 1e-4


def test_paddle_names_give_the_same_network(repository):
    folder = repository / "tests/golden/models"
    arrays = regenerate(folder / "dolg_r50_no_multi_atrous_state_dict.json")
    paddle = {}
    for name, array in arrays.items():
        if name.startswith(("desc_cls", "pool_g")) or name.endswith("num_batches_tracked"):
            continue
        renamed = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        paddle[renamed] = array.T if array.ndim == 2 else array
    model = conversion.convert_arrays("dolg_paddle", paddle)
    with np.load(folder / "dolg_r50_no_multi_atrous.npz") as golden:
        assert relative_error(model.embed(_rgb(), False)[0], golden["descriptor"]) < 1e-4


def test_the_whole_path_from_pixels(case, golden_dir):
    multi_atrous, _, _, model = case
    with np.load(golden_dir / "dolg/multiscale_preprocess.npz") as archive:
        golden = dict(archive)
    bgr = multiscale_image()
    network_input = (bgr / 255 - [0.406, 0.456, 0.485]) / [0.225, 0.224, 0.229]
    theirs = golden["dolg_preprocess_1.0"].transpose(1, 2, 0)
    np.testing.assert_allclose(network_input[::7, ::11], theirs, atol=1e-6)
    kind = "ma" if multi_atrous else "noma"
    differences = conversion.compare(
        model,
        {
            "image": bgr[..., ::-1],
            "network_input": network_input,
            "descriptor": golden[f"dolg_r50_{kind}_calm/scale1.0"][0],
        },
    )
    assert differences["preprocessing"] < 1e-6
    assert differences["model"] < 1e-4
