"""Codecs: sizes, error bounds, hostile fields."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.features.quantization import (
    Float16Codec,
    Float32Codec,
    Int8Codec,
    SignsCodec,
    get_codec,
)
from delf_tf.features.recoding import recode
from delf_tf.features.store import FeatureStore, create, writer
from delf_tf.types import LocalFeatures
from tests.features.samples import assert_same, make, names, sample, tree

SCALES = np.float32(1 / np.array([0.25, 0.35355338, 0.5, 0.70710677, 1, 1.4142135, 2]))


def features(num, dim, *, seed=0, extent=1000):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(num, dim))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    locations = rng.uniform(0, extent, (num, 2))
    return LocalFeatures(locations, descriptors, rng.gamma(2, 50, num), rng.choice(SCALES, num))


def num_bytes(fields):
    return sum(array.nbytes for array in fields.values())


def check_geometry(got, expected):
    span = np.ptp(expected.locations, axis=0).max() if len(expected) else 0
    step = max(1 / 16, 2.0 ** np.ceil(np.log2(max(span, 1) / 65535 * 1.001)))
    assert np.abs(got.locations - expected.locations).max(initial=0) <= step / 2 + 1e-4 * step
    np.testing.assert_array_equal(got.scales, expected.scales)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=2.0**-11)


ALL = [
    (Float32Codec(40), 40, 176),
    (Float16Codec(40), 40, 87),
    (Int8Codec(40), 40, 51),
    (Int8Codec(128), 128, 139),
    (SignsCodec(128), 128, 23),
    (SignsCodec(12), 12, 9),
]


@pytest.mark.parametrize(
    ("codec", "dim", "per_feature"), ALL, ids=lambda v: getattr(v, "name", None)
)
def test_size_types_and_geometry(codec, dim, per_feature):
    given = features(1000, dim)
    fields = codec.encode(given)
    for name, (dtype, shape) in codec.fields.items():
        assert (fields[name].dtype, fields[name].shape[1:]) == (dtype, shape)
    assert set(fields) == set(codec.fields)
    geometry = 0 if codec.name == "float32" else 16 + 4 * len(SCALES)
    assert num_bytes(fields) == 1000 * per_feature + geometry
    back = codec.decode(fields)
    assert back.descriptors.dtype == np.float32
    assert back.descriptors.shape == (1000, dim)
    check_geometry(back, given)


@pytest.mark.parametrize("codec", [row[0] for row in ALL], ids=lambda codec: codec.name)
def test_no_features_take_no_bytes(codec):
    fields = codec.encode(LocalFeatures.empty(codec.dim))
    assert num_bytes(fields) == 0
    back = codec.decode(fields)
    assert (len(back), back.dim) == (0, codec.dim)


def test_float32_is_exact():
    given = features(20, 6)
    back = Float32Codec(6).decode(Float32Codec(6).encode(given))
    for field in ("locations", "descriptors", "scores", "scales"):
        np.testing.assert_array_equal(getattr(back, field), getattr(given, field))


def test_float16_descriptors_in_memory_are_stored_exactly():
    given = features(5, 6)
    half = LocalFeatures(
        given.locations, given.descriptors.astype(np.float16), given.scores, given.scales
    )
    for codec in (Float32Codec(6), Float16Codec(6)):
        np.testing.assert_array_equal(
            codec.decode(codec.encode(half)).descriptors, half.descriptors
        )


def test_float16_error_and_range():
    given = features(200, 16)
    back = Float16Codec(16).decode(Float16Codec(16).encode(given))
    error = np.abs(back.descriptors - given.descriptors)
    assert (error <= 2.0**-11 * np.abs(given.descriptors) + 2.0**-25).all()
    large = LocalFeatures([[0, 0]], [[1e5]], [1], [1])
    with pytest.raises(InputError, match=r"within 65504"):
        Float16Codec(1).encode(large)


def test_int8_by_hand():
    given = LocalFeatures(
        [[0, 0]] * 3, [[127, -63.4, 0], [0, 0, 0], [2e-38, 1e-38, 0]], [1] * 3, [1] * 3
    )
    fields = Int8Codec(3).encode(given)
    np.testing.assert_array_equal(fields["descriptors"][:2], [[127, -63, 0], [0, 0, 0]])
    np.testing.assert_array_equal(fields["descriptor_steps"][:2], [[1], [0]])
    back = Int8Codec(3).decode(fields).descriptors
    np.testing.assert_array_equal(back[:2], [[127, -63, 0], [0, 0, 0]])


def test_int8_error():
    given = features(200, 16)
    back = Int8Codec(16).decode(Int8Codec(16).encode(given))
    bound = np.abs(given.descriptors).max(axis=1, keepdims=True) / 254
    assert (np.abs(back.descriptors - given.descriptors) <= bound * 1.0001).all()


def test_signs_come_back_as_unit_vectors():
    given = features(30, 12)
    back = SignsCodec(12).decode(SignsCodec(12).encode(given)).descriptors
    np.testing.assert_array_equal(back > 0, given.descriptors > 0)
    np.testing.assert_allclose(np.abs(back), 12**-0.5, rtol=1e-6)


@pytest.mark.parametrize("extent", [1, 4000, 8000, 16000, 60000, 1e6])
@pytest.mark.parametrize("offset", [0, -50, 12345])
def test_locations_stay_within_half_a_step(extent, offset):
    given = features(500, 2, extent=extent)
    given = LocalFeatures(given.locations + offset, given.descriptors, given.scores, given.scales)
    back = Float16Codec(2).decode(Float16Codec(2).encode(given))
    check_geometry(back, given)
    bound = {1: 1 / 32, 4000: 1 / 32, 8000: 1 / 16, 16000: 1 / 8, 60000: 1 / 2, 1e6: 8}[extent]
    assert np.abs(back.locations - given.locations).max() <= bound * 1.01


def test_scores_of_any_size_keep_their_order():
    for scores in ([0, 0, 0], [1e-30, 2e-30, 3e-30], [1e30, 2e30, 3e30], [-5, 0, 7e4], [1, 2, 4]):
        given = LocalFeatures(np.zeros((3, 2)), np.zeros((3, 1)), scores, [1] * 3)
        back = Float16Codec(1).decode(Float16Codec(1).encode(given))
        np.testing.assert_allclose(back.scores, given.scores, rtol=2.0**-11)


def test_many_scales_are_rounded_in_the_logarithm():
    scales = np.geomspace(0.1, 10, 1000)
    given = LocalFeatures(np.zeros((1000, 2)), np.zeros((1000, 1)), np.ones(1000), scales)
    back = Float16Codec(1).decode(Float16Codec(1).encode(given))
    assert len(np.unique(back.scales)) == 256
    assert np.abs(np.log(back.scales / scales)).max() <= np.log(100) / 510 * 1.01


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("frame", lambda a: a[:0]),
        ("frame", lambda a: np.repeat(a, 2, axis=0)),
        ("frame", lambda a: a * np.float32(np.nan)),
        ("scale_index", lambda a: a + np.uint8(200)),
        ("scale_index", lambda a: a[:-1]),
        ("scale_table", lambda a: -a),
        ("scale_table", lambda a: a[:0]),
        ("scores", lambda a: a[:-1]),
        ("locations", lambda a: a[:-1]),
        ("descriptors", lambda a: a[:-1]),
        ("descriptor_steps", lambda a: np.concatenate([a, a])),
    ],
)
def test_fields_that_do_not_belong_together(field, change):
    codec = Int8Codec(40)
    fields = codec.encode(features(9, 40))
    fields[field] = change(fields[field])
    with pytest.raises(InputError):
        codec.decode(fields)


def test_codec_names():
    assert get_codec("int8", 7).dim == 7
    with pytest.raises(InputError, match="Did you mean 'float16'"):
        get_codec("float61", 40)


@pytest.mark.parametrize("name", ["pq10x5", "codec.safetensors"])
def test_product_quantized_features_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"no longer supported.*Extract the images again"):
        make(tmp_path / "new", names(2), local_codec=name)
    path = make(tmp_path / "s", names(2)) / "manifest.json"
    content = {**json.loads(path.read_text()), "local_codec": name, "codec_sha256": "0" * 64}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"no longer supported.*Extract the images again"):
        FeatureStore(tmp_path / "s")


def test_manifests_of_earlier_versions(tmp_path):
    path = make(tmp_path / "s", names(2)) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "codec_sha256": None}))
    assert FeatureStore(tmp_path / "s").ids() == tuple(names(2))


@pytest.mark.parametrize("codec", ["float16", "int8", "signs"])
def test_stores_with_codecs(tmp_path, codec):
    path = make(tmp_path / "s", names(7), local_codec=codec, bad=names(7)[2:3])
    store = FeatureStore(path)
    codec = get_codec(codec, 4)
    assert (store.local_codec, store.codec.name) == (codec.name, codec.name)
    for one in store.ids():
        given = sample(one)
        expected = codec.decode(codec.encode(given.local))
        assert_same(store.read(one), type(given)(given.global_descriptor, expected))
    assert store.verify() == []
    before = tree(path)
    make(path, names(7), local_codec=codec.name)
    assert FeatureStore(path).failed() == {}
    assert len(tree(path)) == len(before)


def test_recoding_continues_and_keeps_failures(tmp_path):
    ids = names(12)
    source = FeatureStore(make(tmp_path / "s", ids, num_shards=2, bad=ids[4:5]))
    path = recode(source, tmp_path / "small", "int8")
    whole = tree(path)
    store = FeatureStore(path)
    assert store.ids() == source.ids()
    assert store.failed() == source.failed()
    assert store.fingerprint == source.fingerprint
    codec = get_codec("int8", 4)
    for one in store.ids():
        given = source.read(one)
        expected = codec.decode(codec.encode(given.local))
        assert_same(store.read(one), type(given)(given.global_descriptor, expected))
    np.testing.assert_array_equal(
        store.global_descriptors().vectors, source.global_descriptors().vectors
    )
    next(path.glob("block-00001-*")).unlink()
    recode(source, path, "int8")
    assert tree(path) == whole
    exact = recode(source, tmp_path / "exact", "float32")
    assert tree(exact) == tree(source.path)


def test_recoding_needs_local_features(tmp_path):
    create(tmp_path / "g", ["a"], fingerprint="f", global_dim=8)
    with writer(tmp_path / "g") as shard_writer:
        shard_writer.write(0, ["a"], [type(sample("a"))(sample("a").global_descriptor)], {})
    with pytest.raises(InputError, match="local features"):
        recode(FeatureStore(tmp_path / "g"), tmp_path / "h", "int8")
