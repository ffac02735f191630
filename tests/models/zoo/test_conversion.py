"""Conversion: networks of other programs give the same outputs here, and bad files are refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint, conversion, foreign_names


def _images(height=65, width=97):
    return np.random.RandomState(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def _mobilenet_arrays(seed=0):
    """Arrays as the ONNX zoo's MobileNetV2 has them, from random weights of ours."""
    model = create_model("gem_mobilenet_v2", seed=seed)
    values = {path: np.asarray(v) for path, v in variables_by_path(model).items()}
    arrays = {}
    for name in _mobilenet_names():
        value = values[foreign_names.MOBILENET_V2_ONNX_ZOO.path(name)]
        if value.ndim == 4:
            value = (
                value.transpose(2, 3, 0, 1)
                if "conv1" in name and "linear" in name
                else (value.transpose(3, 2, 0, 1))
            )
        arrays[name] = value
    return arrays, model


def _mobilenet_names():
    modules = ["conv0", "batchnorm0", "conv1", "batchnorm1"]
    modules += [
        f"linearbottleneck{block}_{kind}{index}"
        for block in range(17)
        for kind in ("conv", "batchnorm")
        for index in range(3)
    ]
    norm = ("gamma", "beta", "running_mean", "running_var")
    return [
        f"{module}_{leaf}"
        for module in modules
        for leaf in (norm if "norm" in module else ["weight"])
    ]


@pytest.fixture(scope="module")
def mobilenet():
    return _mobilenet_arrays()


def test_mobilenet_round_trip(mobilenet):
    arrays, model = mobilenet
    converted = conversion.convert_arrays("mobilenet_v2_onnx_zoo", arrays)
    np.testing.assert_array_equal(converted(_images())["global"], model(_images())["global"])


def test_converted_file_needs_nothing_more(mobilenet, tmp_path):
    arrays, model = mobilenet
    foreign, path = tmp_path / "foreign.npz", tmp_path / "ours.npz"
    np.savez(foreign, **arrays)
    conversion.convert_file("mobilenet_v2_onnx_zoo", arrays, foreign, path)
    loaded = create_model("gem_mobilenet_v2", weights=path)
    np.testing.assert_array_equal(loaded(_images())["global"], model(_images())["global"])
    provenance = checkpoint.read_options(path)["provenance"]
    assert provenance["source"] == "mobilenet_v2_onnx_zoo"
    assert provenance["file"] == "foreign.npz"
    assert len(provenance["sha256"]) == 64


def test_the_published_mobilenet_converts(shared):
    from delf_tf.models.zoo import foreign_files

    arrays = foreign_files.read_arrays(shared / "weights/mobilenet_v2_imagenet.npz")
    model = conversion.convert_arrays("mobilenet_v2_onnx_zoo", arrays)
    stem = np.asarray(variables_by_path(model)["backbone.stem.conv.kernel"])
    np.testing.assert_array_equal(stem, arrays["conv0_weight"].transpose(2, 3, 1, 0))
    assert model(_images())["global"].shape == (1, 1280)


def test_the_published_resnet_v2_converts(shared):
    from delf_tf.models.zoo import foreign_files

    arrays = foreign_files.read_arrays(shared / "weights/resnet_v2_50_imagenet_blocks1to3.npz")
    model = conversion.convert_arrays("resnet50_v2_slim", arrays)
    assert model.options["preprocessing"]["mean"] == [127.5] * 3
    variables = variables_by_path(model)
    unit = "block3_unit_6_bottleneck_v2"
    for ours, theirs in (
        ("conv2.conv.kernel", arrays[f"{unit}_conv2_weights"].transpose(1, 2, 3, 0)),
        ("conv3.conv.bias", arrays[f"{unit}_conv3_Conv2D_bias"]),
        ("gamma", arrays[f"{unit}_preact_FusedBatchNorm_mul_0_param"]),
        ("beta", arrays[f"{unit}_preact_FusedBatchNorm_add_param"]),
    ):
        np.testing.assert_array_equal(variables[f"backbone.stage4_unit6.{ours}"], theirs)
    assert model(_images())["global"].shape == (1, 1024)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda a: a.pop("conv0_weight"), r"1 missing: backbone.stem.conv.kernel \[3, 3, 3, 32\]"),
        (lambda a: a.update(conv9_weight=np.zeros((2, 2))), r"1 unknown: conv9_weight \[2, 2\]"),
        (
            lambda a: a.update(conv0_weight=np.zeros((32, 3, 5, 5))),
            r"conv0_weight \[32, 3, 5, 5\] for backbone.stem.conv.kernel \[3, 3, 3, 32\]",
        ),
        (
            lambda a: a.update(batchnorm0_beta=np.full(32, np.nan)),
            r"1 not finite numbers: batchnorm0_beta \[32\]",
        ),
        (
            lambda a: a.update(batchnorm0_beta=np.full(32, "x")),
            r"1 not finite numbers: batchnorm0_beta \[32\]",
        ),
    ],
)
def test_wrong_arrays_are_listed(mobilenet, spoil, told):
    arrays = dict(mobilenet[0])
    spoil(arrays)
    with pytest.raises(InputError, match=told):
        conversion.convert_arrays("mobilenet_v2_onnx_zoo", arrays)


def test_arrays_of_another_network_are_refused(mobilenet):
    with pytest.raises(InputError, match=r"of a ResNet-.*50/101/152"):
        conversion.convert_arrays("dolg_pytorch", mobilenet[0])
    with pytest.raises(InputError, match=r"missing.*and \d+ more"):
        conversion.convert_arrays("mobilenet_v2_onnx_zoo", {})
    with pytest.raises(InputError, match="Did you mean 'dolg_pytorch'"):
        conversion.convert_arrays("dolg_torch", {})


def test_what_is_left_out_is_logged(mobilenet, monkeypatch):
    told = []
    monkeypatch.setattr(logging, "info", lambda text, *args: told.append(text % args))
    arrays = {**mobilenet[0], "pred_weight": np.zeros((1000, 1280))}
    conversion.convert_arrays("mobilenet_v2_onnx_zoo", arrays)
    assert "Not needed and left out: pred_weight [1000, 1280]." in told


def _random_weights(model):
    random = np.random.RandomState(0)
    model.set_weights(
        [
            1 + 0.1 * np.abs(random.standard_normal(w.shape))
            if w.ndim == 1
            else random.standard_normal(w.shape) * np.sqrt(1 / np.prod(w.shape[:-1]))
            for w in model.get_weights()
        ]
    )


def test_keras_applications_resnet_gives_keras_outputs(tmp_path):
    h5py = pytest.importorskip("h5py")
    from delf_tf.models.zoo import foreign_files

    theirs = tf.keras.applications.ResNet50(weights=None, include_top=False)
    _random_weights(theirs)
    with h5py.File(tmp_path / "resnet50.h5", "w") as file:  # as published: layer/layer/leaf:0
        for layer in theirs.layers:
            for weight in layer.weights:
                leaf = weight.name.split("/")[-1].split(":")[0]
                file[f"{layer.name}/{layer.name}/{leaf}:0"] = np.asarray(weight)
    arrays = foreign_files.read_arrays(tmp_path / "resnet50.h5")
    model = conversion.convert_arrays("keras_applications_resnet", arrays)
    assert model.options["preprocessing"]["channel_order"] == "BGR"
    for height, width in ((64, 96), (65, 97)):
        images = _images(height, width)
        network_input = tf.keras.applications.resnet.preprocess_input(images.copy())
        want = np.asarray(theirs(network_input, training=False))
        got = np.asarray(model.backbone(model.preprocess(images))["stride32"])
        assert got.shape == want.shape
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-4


def test_torchvision_names(tmp_path):
    model = create_model("gem_resnet50", seed=3, backbone_form="torchvision")
    arrays = {"fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)}
    leaves = {"gamma": "weight", "beta": "bias", "kernel": "weight"}
    leaves.update(moving_mean="running_mean", moving_variance="running_var")
    for path, variable in variables_by_path(model).items():
        value = np.asarray(variable)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        arrays[f"{_torchvision_module(path)}.{leaves[path.split('.')[-1]]}"] = value
    assert "layer3.0.downsample.1.running_var" in arrays
    for source in ("torchvision_resnet", "timm_resnet"):
        converted = conversion.convert_arrays(source, arrays)
        np.testing.assert_array_equal(converted(_images())["global"], model(_images())["global"])


def _torchvision_module(path):
    _, place, *rest = path.split(".")
    if place == "stem":
        return {"conv": "conv1", "norm": "bn1"}[rest[0]]
    stage, block = place.removeprefix("stage").split("_block")
    layer, kind = rest[0], rest[1]
    name = f"downsample.{int(kind == 'norm')}"
    if layer != "shortcut":
        name = layer if kind == "conv" else layer.replace("conv", "bn")
    return f"layer{int(stage) - 1}.{int(block) - 1}.{name}"


class _Holder(tf.Module):
    """An object with attributes, as the original's models are."""


def _delf_checkpoint(model, prefix):
    """Writes `model` under the original's object names, beside what its trainer also keeps."""
    root = _Holder()
    for path, variable in variables_by_path(model).items():
        at = root
        *holders, leaf = _delf_path(path).split(".")
        for name in holders:
            if not hasattr(at, name):
                setattr(at, name, _Holder())
            at = getattr(at, name)
        setattr(at, leaf, tf.Variable(np.asarray(variable)))
    root.cosine_weights = tf.Variable(tf.zeros((4, 4)))
    step = tf.Variable(7, dtype=tf.int64)
    return tf.train.Checkpoint(model=root, optimizer=_optimizer(step)).save(str(prefix))


def _optimizer(step):
    holder = _Holder()
    holder.iter = step
    return holder


def _delf_path(path):
    renamed = {
        "attention.hidden.conv": "attention.conv1",
        "attention.hidden.norm": "attention.bn_conv1",
        "attention.score": "attention.conv2",
        "autoencoder.encoder": "autoencoder.conv1",
        "autoencoder.decoder": "autoencoder.conv2",
        "whitening": "backbone.embedding_layer",
        "backbone.stem.conv": "backbone.conv1",
        "backbone.stem.norm": "backbone.bn_conv1",
    }
    layer, leaf = path.rsplit(".", 1)
    if layer in renamed:
        return f"{renamed[layer]}.{leaf}"
    _, place, name, kind = layer.split(".")
    stage, block = place.removeprefix("stage").split("_block")
    kind = {"conv": "conv", "norm": "bn"}[kind]
    name = f"{kind}_shortcut" if name == "shortcut" else f"{kind}2{'abc'[int(name[-1]) - 1]}"
    return f"backbone.l{stage}{'abcdef'[int(block) - 1]}.{name}.{leaf}"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("delf_resnet50", {}),
        ("delg_resnet50", {"embedding_dim": 32, "local_dim": 16}),
        ("delg_resnet50", {"embedding_dim": 32, "local_dim": 0}),
    ],
)
def test_checkpoints_of_the_original(tmp_path, name, kwargs):
    from delf_tf.models.zoo import foreign_files

    model = create_model(name, seed=2, backbone_form="keras", **kwargs)
    saved = _delf_checkpoint(model, tmp_path / "ckpt")
    arrays = foreign_files.read_arrays(saved)
    assert arrays.keys() == foreign_files.read_arrays(f"{saved}.index").keys()
    converted = conversion.convert_arrays("delf_tf2", arrays)
    assert converted.options["name"] == name
    assert converted.options["preprocessing"]["mean"] == [128.0] * 3
    want, got = model(_images()), converted(_images())
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])


def test_compare_separates_model_from_preprocessing(mobilenet):
    _, model = mobilenet
    image = _images()[0].round().astype(np.uint8)
    reference = {
        "image": image,
        "network_input": np.asarray(model.preprocess(image[np.newaxis].astype(np.float32)))[0],
        "descriptor": 3 * np.asarray(model(image[np.newaxis].astype(np.float32))["global"])[0],
    }
    same = conversion.compare(model, reference)
    assert same["preprocessing"] < 1e-6
    assert same["model"] < 1e-4
    darker = {**reference, "network_input": reference["network_input"] - 0.5}
    assert conversion.compare(model, darker)["preprocessing"] > 0.1
    other = {**reference, "descriptor": reference["descriptor"][::-1]}
    assert conversion.compare(model, other)["preprocessing"] < 1e-6
    assert conversion.compare(model, other)["model"] > 0.1
    with pytest.raises(InputError, match="network_input"):
        conversion.compare(model, {"image": image})
