"""create_model: names, options, seeds, outputs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.registry import arguments, list_models
from delf_tf.models.variables import variables_by_path

NARROW = {"width_multiplier": 0.125}
WHITENING_SEED_3 = -0.015053763054311275
COMPACT = ["gem_mobilenet_v2", "delf_mobilenet_v2", "delg_mobilenet_v2", "dolg_mobilenet_v2"]


def _images(height=70, width=97, batch=2):
    return np.random.RandomState(0).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)


def test_lists_every_family():
    names = list_models()
    assert names == sorted(names)
    for name in ("delf_resnet50", "delg_resnet50", "delg_resnet101", "dolg_resnet50"):
        assert name in names
    assert "dolg_resnet101" in list_models("dolg_*")
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", COMPACT)
def test_describes_images(name):
    model = create_model(name, seed=1, **NARROW)
    result = model(_images())
    if "global" in model.output_names_available:
        assert result["global"].shape == (2, model.global_dim)
        np.testing.assert_allclose(np.linalg.norm(result["global"], axis=1), 1, rtol=1e-5)
    if "local" in model.output_names_available:
        assert result["features"].shape == (2, 5, 7, model.local_dim)
        assert result["scores"].shape == (2, 5, 7)
        assert np.all(np.asarray(result["scores"]) >= 0)
    assert all(value.dtype == tf.float32 for value in result.values())


def test_computes_only_what_is_asked():
    model = create_model("delg_mobilenet_v2", seed=1, **NARROW)
    assert set(model(_images(), outputs=("local",))) == {"features", "scores"}
    assert set(model(_images(), outputs=("global",))) == {"global"}
    assert model(_images(), outputs=()) == {}


def test_same_seed_same_weights():
    first = variables_by_path(create_model("delg_mobilenet_v2", seed=3, **NARROW))
    second = variables_by_path(create_model("delg_mobilenet_v2", seed=3, **NARROW))
    other = variables_by_path(create_model("delg_mobilenet_v2", seed=4, **NARROW))
    assert list(first) == list(second)
    for path, variable in first.items():
        np.testing.assert_array_equal(variable, second[path])
    assert not np.array_equal(first["whitening.kernel"], other["whitening.kernel"])
    # A value that both TensorFlow stacks must reproduce.
    assert float(np.asarray(first["whitening.kernel"])[0, 0]) == pytest.approx(
        WHITENING_SEED_3, abs=1e-9
    )


def test_seed_leaves_global_generators_alone():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    create_model("gem_mobilenet_v2", seed=1, **NARROW)
    assert np.random.rand() == expected


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("delg_resnet5", {}, "Did you mean 'delg_resnet50'"),
        ("delg_mobilenet_v2", {"embeding_dim": 3}, "Did you mean 'embedding_dim'"),
        ("dolg_mobilenet_v2", {"fusion": "orthogonl"}, "Did you mean 'orthogonal'"),
        ("gem_mobilenet_v2", {"gem_power": 0.0}, "gem_power must be positive"),
        ("delg_mobilenet_v2", {"embedding_dim": 1 << 20}, "whole number from 0 to 65536"),
        ("delg_mobilenet_v2", {"embedding_dim": -1}, "whole number from 0 to 65536"),
        ("delg_mobilenet_v2", {"local_dim": 3.5}, "local_dim must be a whole number"),
        ("dolg_mobilenet_v2", {"fusion_dim": 1}, "fusion_dim must be at least 2"),
        ("dolg_mobilenet_v2", {"multi_atrous": 1}, "multi_atrous must be True or False"),
        ("dolg_mobilenet_v2", {"fusion": 3}, "fusion must be a word"),
        ("gem_mobilenet_v2", {"gem_power": "3"}, "gem_power must be a finite number"),
        ("gem_mobilenet_v2", {"gem_power": float("inf")}, "gem_power must be a finite number"),
        ("gem_mobilenet_v2", {"preprocessing": {"order": "RGB"}}, "preprocessing must be a dict"),
        ("gem_mobilenet_v2", {"preprocessing": "RGB"}, "preprocessing must be a dict"),
        ("gem_mobilenet_v2", {"width_multiplier": 0.0}, "width_multiplier must be"),
        ("gem_mobilenet_v2", {"backbone_form": "keras"}, "backbone_form must not be set"),
        ("no_such_package.module:make", {}, "can be imported"),
        ("delf_tf.types:nothing", {}, "can be imported"),
        ("builtins:print", {}, "must name a function"),
        ("builtins:dict", {}, "must name a function"),
        ("tests.models.foreign_models:not_a_model", {}, "must return"),
    ],
)
def test_refuses(name, kwargs, message):
    with pytest.raises(InputError, match=message):
        create_model(name, **kwargs)


def test_dotted_name():
    model = create_model("tests.models.foreign_models:tiny", seed=1, embedding_dim=5)
    assert model(_images())["global"].shape == (2, 5)
    assert model.options["name"] == "tests.models.foreign_models:tiny"
    with pytest.raises(InputError, match="takes the options embedding_dim"):
        create_model("tests.models.foreign_models:tiny", embed=5)


def test_refuses_unknown_output():
    model = create_model("dolg_mobilenet_v2", seed=1, **NARROW)
    with pytest.raises(InputError, match="outputs must be one of global"):
        model(_images(), outputs=("local",))


def test_options_rebuild_the_model():
    model = create_model("delg_mobilenet_v2", seed=1, embedding_dim=24, local_dim=0, **NARROW)
    options = model.options
    again = create_model(seed=1, **arguments(options))
    np.testing.assert_array_equal(model(_images())["global"], again(_images())["global"])
    assert again.global_dim == 24
    assert again.options == options
