"""Reading a store: what was written comes back; what is missing or damaged is said."""

from __future__ import annotations

import hashlib
import json
import threading

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.features.store import FeatureStore, ImageFeatures, create, writer
from tests.features.samples import DIMS, assert_same, fill, make, names, sample


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("num", [1, 3, 10])
def test_what_was_written_is_read(tmp_path, num, num_shards):
    store = FeatureStore(make(tmp_path / "s", names(num), num_shards=num_shards))
    assert len(store) == num
    assert store.ids() == store.all_ids() == tuple(names(num))
    assert store.failed() == {}
    for one in names(num):
        assert_same(store.read(one), sample(one))
        np.testing.assert_array_equal(
            store.read_local(one).descriptors, sample(one).local.descriptors
        )


def test_global_descriptors_are_in_the_order_of_ids(tmp_path):
    ids = names(10)[::-1]
    store = FeatureStore(make(tmp_path / "s", ids, num_shards=3, block_size=2, bad=ids[3:4]))
    descriptors = store.global_descriptors()
    assert descriptors.ids == store.ids() == tuple(ids[:3] + ids[4:])
    expected = [sample(one).global_descriptor for one in descriptors.ids]
    np.testing.assert_array_equal(descriptors.vectors, expected)
    blocks = list(store.global_blocks())
    assert [len(some) for some, _ in blocks] == [2, 1, 1, 1, 2, 2]
    assert sum((some for some, _ in blocks), ()) == store.ids()


def test_failures_are_listed_and_not_readable(tmp_path):
    ids = names(5)
    store = FeatureStore(make(tmp_path / "s", ids, bad=ids[1:2]))
    assert store.failed() == {ids[1]: "no image"}
    assert store.ids() == (ids[0], *ids[2:])
    assert len(store) == 5
    with pytest.raises(InputError, match=r"must not have failed.*no image"):
        store.read(ids[1])


def test_empty_list_is_a_complete_store(tmp_path):
    store = FeatureStore(make(tmp_path / "s", []))
    assert (len(store), store.ids(), store.failed(), store.verify()) == (0, (), {}, [])
    assert store.global_descriptors().vectors.shape == (0, DIMS["global_dim"])
    assert store.bytes_per_image() == {"global": 0, "local": 0}


def test_more_shards_than_images(tmp_path):
    store = FeatureStore(make(tmp_path / "s", names(2), num_shards=5))
    assert store.ids() == tuple(names(2))


def test_all_images_failed(tmp_path):
    store = FeatureStore(make(tmp_path / "s", names(4), bad=names(4)))
    assert store.ids() == ()
    assert len(store.global_descriptors()) == 0
    assert set(store.failed()) == set(names(4))


@pytest.mark.parametrize(("held", "lacking"), [("global_dim", "local"), ("local_dim", "global")])
def test_store_of_one_kind(tmp_path, held, lacking):
    create(tmp_path / "s", ["a"], fingerprint="f", **{held: DIMS[held]})
    whole = sample("a", num=3)
    half = ImageFeatures(
        whole.global_descriptor if held == "global_dim" else None,
        whole.local if held == "local_dim" else None,
    )
    with writer(tmp_path / "s") as shard_writer:
        with pytest.raises(InputError, match=f"the store's {lacking}_dim, None"):
            shard_writer.write(0, ["a"], [whole], {})
        shard_writer.write(0, ["a"], [half], {})
    store = FeatureStore(tmp_path / "s")
    back = store.read("a")
    assert (back.global_descriptor is None, back.local is None) == (
        held != "global_dim",
        held != "local_dim",
    )
    assert store.bytes_per_image()[lacking] == 0
    read = store.global_descriptors if lacking == "global" else lambda: store.read_local("a")
    with pytest.raises(InputError, match=f"must hold {lacking}"):
        read()


def test_incomplete_store_says_what_is_missing(tmp_path):
    create(tmp_path / "s", names(10), fingerprint="f", num_shards=3, block_size=2, **DIMS)
    fill(tmp_path / "s", shard=1, num_shards=3)
    with pytest.raises(InputError, match=r"4 of 6 blocks are missing, in shards 0, 2.*extract"):
        FeatureStore(tmp_path / "s")
    store = FeatureStore(tmp_path / "s", allow_incomplete=True)
    assert store.num_missing_blocks == 4
    assert store.ids() == tuple(names(10)[3:6])
    assert_same(store.read(store.ids()[0]), sample(store.ids()[0]))
    for missing in (names(10)[0], names(10)[9]):
        with pytest.raises(InputError, match="must have been written"):
            store.read(missing)


def test_bytes_per_image_by_hand(tmp_path):
    create(tmp_path / "s", ["a", "b"], fingerprint="f", **DIMS)
    with writer(tmp_path / "s") as shard_writer:
        shard_writer.write(0, ["a", "b"], [sample("a", num=10), sample("b", num=0)], {})
    # 10 features of 4·4 + 16 bytes; the offsets of 4 fields are 3 int64 each; two images.
    expected = {"global": 4 * 8, "local": (10 * 32 + 4 * 3 * 8) / 2}
    assert FeatureStore(tmp_path / "s").bytes_per_image() == expected


def test_unknown_id_names_the_nearest(tmp_path):
    store = FeatureStore(make(tmp_path / "s", names(3)))
    with pytest.raises(InputError, match=r"Did you mean 'folder/ä 2.jpg'"):
        store.read("folder/ä 2.jpeg")


def test_threads_read_the_same(tmp_path):
    ids = names(20)
    store = FeatureStore(make(tmp_path / "s", ids, block_size=2))
    errors = []

    def read():
        try:
            for one in ids * 5:
                assert_same(store.read(one), sample(one))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_no_store(tmp_path):
    with pytest.raises(InputError, match=r"must have a manifest.json.*Extract"):
        FeatureStore(tmp_path)
    with pytest.raises(InputError, match=r"must have a manifest.json"):
        FeatureStore(tmp_path / "absent")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "{}",
        '{"format": 3}',
        '{"format": "other"}',
        '{"format": "delf_tf feature store", "format_version": 99}',
        '{"format": "delf_tf feature store", "format_version": 1, "more": 1}',
    ],
)
def test_hostile_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_images", -1),
        ("num_images", 1.5),
        ("num_shards", 0),
        ("num_shards", 10**9),
        ("block_size", 0),
        ("block_size", True),
        ("global_dim", -3),
        ("fingerprint", ""),
        ("local_dim", 10**12),
        ("local_codec", "float64"),
        ("ids_sha256", "0"),
        ("num_images", 10**15),
    ],
)
def test_hostile_manifest_values(tmp_path, field, value):
    path = make(tmp_path / "s", names(3)) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, field: value}))
    with pytest.raises(InputError):
        FeatureStore(tmp_path / "s")


def test_changed_list_of_ids_is_refused_and_mended(tmp_path):
    path = make(tmp_path / "s", names(3))
    before = (path / "ids.json").read_bytes()
    (path / "ids.json").write_bytes(before.replace(b"0", b"9"))
    with pytest.raises(InputError, match=r"ids.json must be the one"):
        FeatureStore(path)
    make(path, names(3))
    assert (path / "ids.json").read_bytes() == before
    assert FeatureStore(path).ids() == tuple(names(3))


@pytest.mark.parametrize("text", ["5", "{}", '["a"]', '["a", 5]', '["a", "a"]', "[" * 100_000, ""])
def test_a_list_of_ids_that_is_none(tmp_path, text):
    path = make(tmp_path / "s", names(2))
    (path / "ids.json").write_text(text)
    content = json.loads((path / "manifest.json").read_text())
    content["ids_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"ids\.json must|ids must be"):
        FeatureStore(path)


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (np.zeros(4), "norm 1"),
        (np.full(4, 2.0), "norm 1"),
        (np.ones((1, 4)), "shape"),
        ([np.nan, 0], "finite"),
        ("text", "numeric"),
    ],
)
def test_image_features_check_themselves(vector, words):
    with pytest.raises(InputError, match=words):
        ImageFeatures(vector)


def test_image_features_may_be_nothing():
    assert ImageFeatures().global_descriptor is None
    assert ImageFeatures([0.6, 0.8]).global_descriptor.dtype == np.float32
