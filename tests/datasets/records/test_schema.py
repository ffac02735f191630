from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets.input import training_images
from delf_tf.datasets.records import builder as record_builder
from delf_tf.datasets.records import schema


@pytest.fixture
def golden(golden_dir):
    return golden_dir / "delf" / "gldv2_tfrecord"


@pytest.fixture
def tree(tmp_path):
    """Three classes of 1, 2 and 4 images, one PNG among them."""
    rng = np.random.RandomState(0)
    for name, num in (("b", 1), ("a", 2), ("c", 4)):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(num):
            pixels = rng.randint(0, 255, (20 + i, 30, 3), np.uint8)
            ending = "png" if (name, i) == ("a", 1) else "jpg"
            Image.fromarray(pixels).save(tmp_path / "tree" / name / f"{i}.{ending}")
    return tmp_path / "tree"


def _parsed(folder, pattern="train*"):
    paths = sorted(str(path) for path in folder.glob(pattern))
    dataset = tf.data.TFRecordDataset(paths).map(schema.parse_example)
    return [{k: v.numpy() for k, v in one.items()} for one in dataset]


def test_reads_the_originals_records(golden):
    dump = json.loads((golden / "dump.json").read_text())
    for shard, expected in dump.items():
        got = _parsed(golden, shard)
        assert [one["id"].decode() for one in got] == [e["image/id"] for e in expected]
        assert [one["label"] for one in got] == [e["image/class/label"] for e in expected]
        assert [(one["height"], one["width"]) for one in got] == [
            (e["image/height"], e["image/width"]) for e in expected
        ]
        for one in got:
            original = golden / "img" / f"{one['id'].decode()}.jpg"
            assert one["encoded"] == original.read_bytes()


def test_writes_what_the_originals_schema_reads(golden):
    by_id = {}
    for path in golden.glob("*-of-*"):
        for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(raw).features.feature
            by_id[features["image/id"].bytes_list.value[0].decode()] = raw
    assert len(by_id) == 10
    for image_id, raw in by_id.items():
        theirs = tf.train.Example.FromString(raw)
        feature = theirs.features.feature
        ours = schema.make_example(
            image_id,
            (golden / "img" / f"{image_id}.jpg").read_bytes(),
            feature["image/height"].int64_list.value[0],
            feature["image/width"].int64_list.value[0],
            feature["image/class/label"].int64_list.value[0],
        )
        assert tf.train.Example.FromString(ours) == theirs


def test_gldv2_tables_give_the_originals_classes(golden, tmp_path):
    for options in ({}, {"clean_csv": golden / "train_clean.csv"}):
        images = training_images.from_gldv2(
            golden / "img", golden / "train.csv", layout="flat", **options
        )
        path = training_images.write_relabeling(tmp_path / "relabeling.csv", images.class_names)
        assert path.read_bytes() == (golden / "relabeling.csv").read_bytes().replace(b"\r", b"")
        assert training_images.read_relabeling(path) == ("17", "350", "901")
        dump = json.loads((golden / "dump.json").read_text())
        labels = {e["image/id"]: e["image/class/label"] for s in dump.values() for e in s}
        assert dict(zip(images.ids, images.labels.tolist())) == labels


def test_excluded_landmarks_are_recorded(golden, tmp_path):
    (tmp_path / "exclude.csv").write_text("landmark_id\n350\n")
    images = training_images.from_gldv2(
        golden / "img",
        "",
        clean_csv=golden / "train_clean.csv",
        exclude_csv=tmp_path / "exclude.csv",
        layout="flat",
    )
    assert images.class_names == ("17", "901")
    assert images.source["excluded"]["num_images"] == 3
    manifest = record_builder.build_records(images, tmp_path / "out", num_shards=1)
    content = json.loads(manifest.read_text())
    assert content["source"]["excluded"]["num_classes"] == 1
    records = schema.open_records(str(tmp_path / "out" / "train*"))
    assert records.manifest == content
    assert records.counts == (7,)


def test_build_and_read_back(tree, tmp_path):
    images = training_images.from_folder(tree)
    assert images.class_names == ("a", "b", "c")
    record_builder.build_records(images, tmp_path / "out", num_shards=3)
    got = _parsed(tmp_path / "out")
    assert sorted(one["id"].decode() for one in got) == sorted(images.ids)
    for one in got:
        name = one["id"].decode()
        assert images.class_names[one["label"]] == name[0]
        decoded = tf.io.decode_jpeg(one["encoded"], channels=3)
        assert tuple(decoded.shape[:2]) == (one["height"], one["width"])
        if name.endswith("jpg"):
            assert one["encoded"] == (tree / name).read_bytes()
    assert schema.open_records(str(tmp_path / "out")).num_records == 7


def _content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_killed_build_resumes_to_identical_bytes(tree, tmp_path, monkeypatch):
    images = training_images.from_folder(tree)
    record_builder.build_records(images, tmp_path / "whole", num_shards=3)
    build_shard = record_builder._build_shard

    def die_in_the_second(task):
        if task.path.name.startswith("train-00001"):
            task.path.with_name(".train-00001.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return build_shard(task)

    monkeypatch.setattr(record_builder, "_build_shard", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        record_builder.build_records(images, tmp_path / "killed", num_shards=3)
    monkeypatch.undo()
    (tmp_path / "killed" / ".train-00001.tmp").unlink()
    made = (tmp_path / "killed" / "train-00000-of-00003").stat().st_mtime_ns
    record_builder.build_records(images, tmp_path / "killed", num_shards=3)
    assert (tmp_path / "killed" / "train-00000-of-00003").stat().st_mtime_ns == made
    assert _content(tmp_path / "killed") == _content(tmp_path / "whole")


@pytest.mark.slow
def test_processes_make_the_same_bytes(tree, tmp_path):
    images = training_images.from_folder(tree)
    record_builder.build_records(images, tmp_path / "one", num_shards=3)
    record_builder.build_records(images, tmp_path / "two", num_shards=3, num_processes=2)
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_bad_images_are_listed_and_left_out(tree, tmp_path):
    images = training_images.from_folder(tree)
    (tree / "c" / "1.jpg").write_bytes(b"")
    (tree / "c" / "2.jpg").unlink()
    with pytest.raises(InputError, match="max_failed_fraction"):
        record_builder.build_records(images, tmp_path / "out", num_shards=2)
    listed = (tmp_path / "out" / "failed_images.csv").read_text()
    assert listed.count("\n") == 3
    assert "c/1.jpg" in listed
    assert "c/2.jpg" in listed
    assert len(_parsed(tmp_path / "out")) == 5
    record_builder.build_records(images, tmp_path / "out", num_shards=2, max_failed_fraction=0.5)


def test_another_build_is_not_replaced_silently(tree, tmp_path):
    images = training_images.from_folder(tree)
    record_builder.build_records(images, tmp_path / "out", num_shards=2)
    with pytest.raises(InputError, match="replaced silently"):
        record_builder.build_records(images, tmp_path / "out", num_shards=3)
    record_builder.build_records(images, tmp_path / "out", num_shards=3, overwrite=True)
    assert len(list((tmp_path / "out").glob("train-*"))) == 3


def test_images_are_stored_upright_and_small(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise to be upright
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    encoded, height, width = record_builder.encode_image(tmp_path / "a.jpg", max_side_px=20)
    decoded = tf.io.decode_jpeg(encoded, channels=3).numpy()
    assert (height, width) == (20, 10) == decoded.shape[:2]
    assert decoded[:8].mean() > 240
    assert decoded[-8:].mean() < 15


def test_split_keeps_single_images_for_training(tree):
    images = training_images.from_folder(tree)
    train, validation = training_images.split_validation(images, 0.5, seed=3)
    counts = np.bincount(train.labels, minlength=3), np.bincount(validation.labels, minlength=3)
    assert [count.tolist() for count in counts] == [[1, 1, 2], [1, 0, 2]]
    assert not set(train.ids) & set(validation.ids)
    assert train.num_classes == validation.num_classes == 3
    with pytest.raises(InputError, match=r"\(0, 1\)"):
        training_images.split_validation(images, 1.0)


def test_labels_csv(tree, tmp_path):
    (tmp_path / "labels.csv").write_text("image,place\nc/0.jpg,x\na/0.jpg,y\nc/3.jpg,x\nb/0.jpg,\n")
    images = training_images.from_folder(tree, tmp_path / "labels.csv")
    assert dict(zip(images.ids, images.labels.tolist())) == {
        "a/0.jpg": 1,
        "c/0.jpg": 0,
        "c/3.jpg": 0,
    }


def test_refused_listings(tree, tmp_path):
    Image.new("RGB", (4, 4)).save(tree / "loose.jpg")
    with pytest.raises(InputError, match="folder named after its class"):
        training_images.from_folder(tree)
    table = tmp_path / "train.csv"
    table.write_text("id,url,landmark_id\na,u,1\na,u,2\n")
    with pytest.raises(InputError, match="listed once"):
        training_images.from_gldv2(tree, table)
    table.write_text("id,url,landmark_id\na,u,x\n")
    with pytest.raises(InputError, match="landmark"):
        training_images.from_gldv2(tree, table)
    table.write_text("id\n../../secret\n")
    with pytest.raises(InputError, match="valid"):
        training_images.from_id_list(tree, table, layout="flat")
    (tmp_path / "relabeling.csv").write_text("new_label,old_label\n0,5\n2,6\n")
    with pytest.raises(InputError, match=r"0\.\.C-1"):
        training_images.read_relabeling(tmp_path / "relabeling.csv")


def test_missing_shards_are_named(tree, tmp_path):
    images = training_images.from_folder(tree)
    record_builder.build_records(images, tmp_path / "out", num_shards=3)
    (tmp_path / "out" / "train-00001-of-00003").unlink()
    with pytest.raises(InputError, match=r"missing=\[1\]"):
        schema.open_records(str(tmp_path / "out" / "train*"))
    with pytest.raises(InputError, match="must match"):
        schema.open_records(str(tmp_path / "out" / "tran*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["shards"][0].pop("num_bytes"),
        lambda content: content["shards"][0].update(num_records="all"),
        lambda content: content.update(shards=5),
        lambda content: content.pop("num_classes"),
        lambda content: content.update(failed=[[1]]),
    ],
)
def test_a_changed_manifest_is_told(tree, tmp_path, change):
    images = training_images.from_folder(tree)
    path = record_builder.build_records(images, tmp_path, num_shards=2)
    content = json.loads(path.read_text())
    change(content)
    for text in (json.dumps(content), "[" * 100_000, "5", ""):
        path.write_text(text)
        with pytest.raises(InputError, match=r"A manifest of shards must be.*Delete it"):
            schema.open_records(str(tmp_path / "train*"))
        with pytest.raises(InputError, match=r"must be.*Delete|--overwrite"):
            record_builder.build_records(images, tmp_path, num_shards=2)


def test_index_and_test_sets_have_no_label(golden, tmp_path):
    images = training_images.from_id_list(golden / "img", golden / "train.csv", layout="flat")
    record_builder.build_records(images, tmp_path / "out", split="index", num_shards=2)
    assert not (tmp_path / "out" / "relabeling.csv").exists()
    got = _parsed(tmp_path / "out", "index*")
    assert [one["label"] for one in got] == [schema.NO_LABEL] * 10
