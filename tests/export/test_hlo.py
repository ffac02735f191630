"""XLA programs: what another XLA client gives, without TensorFlow, is what the Extractor gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from delf_tf import create_model
from delf_tf.checks import InputError
from delf_tf.export import hlo, xla_program
from delf_tf.extraction.extractor import Extractor, Projection
from tests.extraction.toy import ToyModel

pytest.importorskip("jax", reason="the extra delf_tf[xla] is not installed")

SMALL = {"width_multiplier": 0.125, "attention_dim": 8}
HEIGHT, WIDTH, BATCH = 70, 94, 3
SIZE = {"image_height": HEIGHT, "image_width": WIDTH, "batch_size": BATCH}


def _images(num=BATCH, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, HEIGHT, WIDTH, 3)).astype(np.uint8)


def _projection(width, dim):
    rng = np.random.default_rng(1)
    mean, matrix = rng.normal(size=width) / 10, rng.normal(size=(dim, width))
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))


def _delg(**options):
    model = create_model("delg_resnet14", seed=0, embedding_dim=16, local_dim=12, **SMALL)
    return Extractor(
        model,
        use_local_features=True,
        local_projection=_projection(12, 5),
        **{
            "image_scales": (0.5, 0.7071068, 1.0, 1.4142135),
            "global_scales_ind": (1, 2),
            "max_num_features": 25,
            **options,
        },
    )


def _assert_same(program, extractor, images):
    found = program(images)
    for row, image in enumerate(images):
        alone = {name: value.numpy() for name, value in extractor(image).items()}
        if "scores" in alone:
            assert found["num_features"][row] == len(alone["scores"])
        for name, want in alone.items():
            got = found[name][row]
            if name != "global_descriptor":
                assert not got[len(want) :].any()
                got = got[: len(want)]
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def extractor():
    return _delg()


@pytest.fixture(scope="module")
def exported(extractor, tmp_path_factory):
    return hlo.export_program(
        extractor, tmp_path_factory.mktemp("xla") / "delg", fingerprint="abc", **SIZE
    )


@pytest.fixture(scope="module")
def program(exported):
    return xla_program.load_program(exported)


def test_local_and_global_are_the_extractors(extractor, program):
    _assert_same(program, extractor, _images())


def test_the_folder_says_what_it_is(exported, program):
    assert sorted(path.name for path in exported.iterdir()) == [
        "program.hlo.pb",
        "program.json",
        "weights.safetensors",
    ]
    said = json.loads((exported / "program.json").read_text())
    assert said["arguments"][0] == {
        "name": "images",
        "shape": [BATCH, HEIGHT, WIDTH, 3],
        "dtype": "uint8",
    }
    outputs = {one["name"]: (one["shape"], one["dtype"]) for one in said["outputs"]}
    assert outputs == {
        "descriptors": ([BATCH, 25, 5], "float32"),
        "global_descriptor": ([BATCH, 16], "float32"),
        "locations": ([BATCH, 25, 2], "float32"),
        "num_features": ([BATCH], "int32"),
        "scales": ([BATCH, 25], "float32"),
        "scores": ([BATCH, 25], "float32"),
    }
    assert said["fingerprint"] == "abc"
    assert said["precision"] == "float32"
    assert "backbone.stem.kernel" in {one["name"] for one in said["arguments"]}
    assert (program.batch_size, program.image_height, program.image_width) == (3, 70, 94)
    weights_bytes = (exported / "weights.safetensors").stat().st_size
    assert program.memory_bytes > weights_bytes - (1 << 16)


def test_smaller_batches_and_none(extractor, program):
    _assert_same(program, extractor, _images(2))
    none = program(_images(0))
    assert {name: value.shape for name, value in none.items()} == {
        "descriptors": (0, 25, 5),
        "global_descriptor": (0, 16),
        "locations": (0, 25, 2),
        "num_features": (0,),
        "scales": (0, 25),
        "scores": (0, 25),
    }


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((BATCH + 1, HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((1, WIDTH, HEIGHT, 3), np.uint8),
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    ],
)
def test_other_images_are_refused(program, images):
    with pytest.raises(InputError, match="images must be"):
        program(images)


def test_a_threshold_leaves_fewer_features(tmp_path):
    scores = _delg()(_images()[0])["scores"].numpy()
    extractor = _delg(
        image_scales=(0.5, 1.0),
        global_scales_ind=(1,),
        score_threshold=float(scores[7] + scores[8]) / 2,
        border_cells=1,
    )
    program = xla_program.load_program(hlo.export_program(extractor, tmp_path / "m", **SIZE))
    _assert_same(program, extractor, _images())
    assert program(_images())["num_features"][0] <= 8
    none = Extractor(ToyModel(), use_local_features=True, score_threshold=1e9)
    program = xla_program.load_program(hlo.export_program(none, tmp_path / "none", **SIZE))
    _assert_same(program, none, _images(1))
    assert program(_images(1))["num_features"] == [0]


def test_dolg_of_five_scales_gives_one_descriptor(tmp_path):
    model = create_model(
        "dolg_resnet14", seed=0, width_multiplier=0.125, fusion_dim=8, embedding_dim=6
    )
    scales = (0.3535, 0.5, 0.7071, 1.0, 1.4142)
    extractor = Extractor(model, image_scales=scales, global_projection=_projection(6, 4))
    program = xla_program.load_program(hlo.export_program(extractor, tmp_path / "m", **SIZE))
    assert [one["name"] for one in program.metadata["outputs"]] == ["global_descriptor"]
    _assert_same(program, extractor, _images())


def test_superfeatures(tmp_path):
    model = create_model("superfeatures_resnet14", seed=0, width_multiplier=0.125)
    extractor = Extractor(
        model,
        image_scales=(0.7071,),
        use_global_features=False,
        use_local_features=True,
        max_num_features=30,
    )
    program = xla_program.load_program(hlo.export_program(extractor, tmp_path / "m", **SIZE))
    _assert_same(program, extractor, _images())


def test_bfloat16_weights_are_kept_and_descriptors_near(tmp_path):
    model = create_model("gem_mobilenet_v2", seed=0, width_multiplier=0.25)
    extractor = Extractor(model, precision="bfloat16")
    path = hlo.export_program(extractor, tmp_path / "m", **SIZE)
    program = xla_program.load_program(path)
    assert "bfloat16" in {one["dtype"] for one in program.metadata["arguments"]}
    found = program(_images())["global_descriptor"]
    exact, near = (
        np.stack([one(image)["global_descriptor"] for image in _images()])
        for one in (Extractor(model), extractor)
    )
    # As far from float32 as TensorFlow's own bfloat16 is, which rounds elsewhere.
    assert 1 - (found * exact).sum(axis=1).min() < 2 * (1 - (near * exact).sum(axis=1).min())


def test_without_tensorflow(exported, program, tmp_path):
    np.save(tmp_path / "images.npy", _images())
    script = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import numpy as np\n"
        "from delf_tf.export.xla_program import load_program\n"
        f"found = load_program({str(exported)!r})(np.load({str(tmp_path / 'images.npy')!r}))\n"
        f"np.savez({str(tmp_path / 'found.npz')!r}, **found)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    with np.load(tmp_path / "found.npz") as found:
        for name, want in program(_images()).items():
            np.testing.assert_array_equal(found[name], want)


def test_without_jax(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(InputError, match=r"needs JAX.*delf_tf\[xla\]"):
        xla_program.load_program(exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_height": 9}, "image_height must be 10 to"),
        ({"image_width": 1 << 20}, "image_width must be 10 to"),
        ({"batch_size": 0}, "batch_size must be 1 to"),
        ({"batch_size": 2.5}, "batch_size must be 1 to"),
    ],
)
def test_sizes_out_of_range(extractor, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        hlo.export_program(extractor, tmp_path / "m", **{**SIZE, **change})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(exported, tmp_path):
    with pytest.raises(InputError, match="nms_iou must be 1"):
        hlo.export_program(_delg(nms_iou=0.5), tmp_path / "m", **SIZE)
    with pytest.raises(InputError, match="Only an Extractor"):
        hlo.export_program(ToyModel(), tmp_path / "m", **SIZE)
    with pytest.raises(InputError, match="must not exist yet"):
        hlo.export_program(_delg(), exported, **SIZE)
    assert not list(tmp_path.iterdir())


def test_overwriting_replaces_the_whole_folder_or_nothing(tmp_path, monkeypatch):
    extractor = Extractor(ToyModel())
    path = hlo.export_program(extractor, tmp_path / "m", **SIZE)
    before = {one.name: one.read_bytes() for one in path.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(hlo.artifacts, "write_json", fail)
        with pytest.raises(OSError, match="disk full"):
            hlo.export_program(extractor, path, overwrite=True, **SIZE)
    assert {one.name: one.read_bytes() for one in path.iterdir()} == before
    assert [one.name for one in tmp_path.iterdir()] == ["m"]
    (path / "mine").write_text("x")
    hlo.export_program(extractor, path, overwrite=True, **SIZE)
    assert not (path / "mine").exists()
    _assert_same(xla_program.load_program(path), extractor, _images())


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def _edit(path, change):
    content = json.loads((path / "program.json").read_text())
    change(content)
    (path / "program.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=99), "format must be version"),
        (lambda c: c.pop("outputs"), "must be whole"),
        (lambda c: c.update(model="delg"), "must say what made it"),
        (lambda c: c.pop("versions"), "must be whole"),
        (lambda c: c.update(outputs=[]), "Each output must have"),
        (lambda c: c.update(arguments=[]), "must be whole"),
        (lambda c: c["arguments"][0].update(dtype="float32"), "first argument must be images"),
        (lambda c: c["arguments"][0].update(shape=[3, 70, 94, 4]), "first argument must be images"),
        (lambda c: c["arguments"][1].update(dtype="object"), "dtype that is known"),
        (lambda c: c["arguments"][1].update(shape=[1 << 40]), "Each array must have"),
        (lambda c: c["arguments"][1].update(shape=["3"]), "Each array must have"),
        (lambda c: c["arguments"][1].update(shape=[1 << 35]), "bytes at most"),
        (lambda c: c["arguments"][1].update(name="images2"), "must hold each argument"),
        (lambda c: c["arguments"][1].update(c["arguments"][2]), "unlike names"),
        (lambda c: c["arguments"].insert(1, c["arguments"].pop()), "must take and give"),
        (lambda c: c["outputs"][0].update(shape=[3, 9]), "must take and give"),
        (lambda c: c["outputs"].pop(), "must take and give"),
        (lambda c: c.update(program_fingerprint="0" * 16), "checksum differs"),
    ],
)
def test_metadata_of_strangers(copy, change, message):
    _edit(copy, change)
    with pytest.raises(InputError, match=message):
        xla_program.load_program(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_metadata_that_is_none(copy, content):
    (copy / "program.json").write_bytes(content)
    with pytest.raises(InputError, match="must be whole"):
        xla_program.load_program(copy)


def test_damaged_folders(exported, copy, tmp_path):
    with pytest.raises(InputError, match=r"must hold program\.json"):
        xla_program.load_program(tmp_path / "nowhere")
    weights, program = copy / "weights.safetensors", copy / "program.hlo.pb"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="checksum differs"):
        xla_program.load_program(copy)
    weights.write_bytes(content[:-10])
    with pytest.raises(InputError, match="full length"):
        xla_program.load_program(copy)
    program.write_bytes(program.read_bytes()[:-1])
    with pytest.raises(InputError, match="checksum differs"):
        xla_program.load_program(copy)
    program.unlink()
    with pytest.raises(InputError, match=r"must hold program\.hlo\.pb"):
        xla_program.load_program(copy)
    (copy / "program.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(InputError, match="4 MiB"):
        xla_program.load_program(copy)


def test_rubbish_that_calls_itself_a_program(copy):
    (copy / "program.hlo.pb").write_bytes(b"no program")
    made_by = hlo.artifacts.file_fingerprint(copy / "program.hlo.pb")
    _edit(copy, lambda c: c.update(program_fingerprint=made_by))
    with pytest.raises(InputError, match="of the same export"):
        xla_program.load_program(copy)
    with (copy / "weights.safetensors").open("wb") as file:
        hlo.tensor_file.write(file, {}, {"program_fingerprint": made_by})
    _edit(copy, lambda c: c.update(arguments=c["arguments"][:1]))
    with pytest.raises(InputError, match="must take the program"):
        xla_program.load_program(copy)
