"""Each kind of file that the project reads: a small sample of it, and what reads it."""

from __future__ import annotations

import functools
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import tensorflow as tf
from PIL import Image
from safetensors.numpy import save_file

from delf_tf import config, npz, safe_pickle
from delf_tf.datasets import folder, gldv2, images, revisitop, sfm120k
from delf_tf.datasets.records import files, schema
from delf_tf.evaluation import results
from delf_tf.features.formats import delf_format, interchange
from delf_tf.features.store import FeatureStore
from delf_tf.models.zoo import checkpoint, foreign_files
from delf_tf.pipelines import retrieve
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage.verification_files import (
    VerificationFolder,
    VerifiedHead,
    load_verifications,
)
from delf_tf.retrieval.vectors import whitening
from delf_tf.retrieval.vectors.index import ExactIndex, create_index, load_index
from delf_tf.retrieval.votes import LocalIndex
from delf_tf.retrieval.words import codebook
from delf_tf.training import metrics_log, run_state
from delf_tf.types import GlobalDescriptors, LocalFeatures, Ranking, Verification
from tests.features import samples

RNG = np.random.default_rng(0)
LOCAL = LocalFeatures(
    RNG.uniform(0, 500, (5, 2)), RNG.normal(size=(5, 8)), RNG.random(5), np.ones(5)
)
RANKING = Ranking(
    ("a", "b"), ("a", "b", "c"), np.array([[1, 2], [0, -1]]), np.array([[0.9, 0.5], [0.7, 0]])
)
GROUND_TRUTH = {
    "imlist": ["all_souls_1", "all_souls_2", "ashmolean_3"],
    "qimlist": ["all_souls_1"],
    "gnd": [{"bbx": [1.5, 2.0, 30.0, 40.0], "easy": [1], "hard": [2], "junk": [0]}],
}
SFM = {
    "train": {
        "cids": ["abcdef", "abcdeg", "abcdeh"],
        "cluster": [0, 0, 1],
        "qidxs": [0, 1],
        "pidxs": [1, 0],
    }
}


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      make: writes a sample below a folder and returns the files to be changed.
      read: reads the sample in that folder, all of it.
      is_the_librarys: a library in C reads it, which some mutants keep busy for ever; SECURITY.md
        says so.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    is_the_librarys: bool = False


def _bytes(name: str, content: bytes, read: Callable[[Path], Any]) -> Format:
    def make(folder: Path) -> list[Path]:
        (folder / name).write_bytes(content)
        return [folder / name]

    return Format(make, lambda folder: read(folder / name))


def _written(
    name: str, write: Callable[[Path], Any], read: Callable[[Path], Any], *changed: str
) -> Format:
    def make(folder: Path) -> list[Path]:
        write(folder / name)
        return [folder / one for one in changed or (name,)]

    return Format(make, lambda folder: read(folder / name))


def _vectors(num: int = 6) -> GlobalDescriptors:
    rows = RNG.normal(size=(num, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return GlobalDescriptors(tuple(f"image {row}" for row in range(num)), rows)


def _index(kind: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        index = ExactIndex() if kind == "exact" else create_index(kind)
        index.add(_vectors())
        index.save(path)

    return write


def _search(path: Path) -> None:
    load_index(path).search(_vectors(2), 3)


def _local_index(path: Path) -> None:
    rows = RNG.normal(size=(300, 8)).astype(np.float32)
    index = LocalIndex.train(rows, "IVF4,PQ2x4")
    index.add("a", rows[:30])
    index.save(path)


def _verifications(path: Path) -> None:
    found = Verification(1, np.eye(3), np.array([[0, 1], [2, 3]]), np.array([True, False]))
    heads = [VerifiedHead(np.array([4]), np.array([1.5]), (found,))]
    folder = VerificationFolder(path, ["a"], "f", block_size=1)
    folder.write(0, heads)


def _store(path: Path) -> None:
    samples.make(path, samples.names(3), bad=samples.names(3)[:1])


def _read_store(path: Path) -> None:
    store = FeatureStore(path)
    store.verify()
    store.failed()
    store.global_descriptors()
    for one in store.ids():
        store.read(one)


def _exported(kind: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        _store(path.parent / "store")
        interchange.export_features(FeatureStore(path.parent / "store"), path, kind)

    return write


def _import(kind: str) -> Callable[[Path], Any]:
    return lambda path: interchange.import_features(path, path.parent / "new", kind, overwrite=True)


def _records(path: Path) -> None:
    with path.open("wb") as file:
        for payload in (b"first", b"", b"third" * 20):
            files.write_record(file, payload)


def _checkpoint(prefix: Path) -> None:
    module = tf.Module()
    module.kernel = tf.Variable([1.0, 2.0])
    tf.train.Checkpoint(model=module).write(str(prefix))


def _hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["model_weights/conv/conv/kernel:0"] = np.ones((2, 2))


def _results(path: Path) -> None:
    results.save_results(path, {"mAP": 0.5, "per_query": [0.25, None], "names": ["a", "b"]})


def _picture(kind: str, mode: str = "RGB", **options: Any) -> Format:
    y, x = np.mgrid[:24, :30]
    pixels = Image.fromarray(np.stack([y * 4, x * 2, 255 - y - x], axis=2).astype(np.uint8))
    file = io.BytesIO()
    pixels.convert(mode).save(file, kind, **options)
    return _bytes(
        "picture", file.getvalue(), lambda path: images.read_image(path, max_pixels=1_000_000)
    )


class _Model(tf.keras.Sequential):
    """A few weights with the options of a network."""

    @property
    def options(self) -> dict[str, Any]:
        return {"name": "small", "kwargs": {}, "preprocessing": {}}


@functools.cache
def _model() -> _Model:
    model = _Model([tf.keras.layers.Dense(4), tf.keras.layers.BatchNormalization()])
    model.build((None, 3))
    return model


STATE = run_state.RunState(5, {"model/a": np.ones((3, 2))}, "f" * 16, {"seconds": 1.0})
CONFIG = config.load_experiment("compact")
FACTS = json.dumps({"config": str(CONFIG), "images_dir": "/nowhere"}).encode()
TENSORFLOW = (".data-00000-of-00001", ".index")


def _save_state(path: Path) -> None:
    run_state.save_state(path.parent, STATE)


FORMATS: dict[str, Format] = {
    "ranking": _written(
        "r.npz",
        lambda path: ranking_file.save_ranking(path, RANKING, cropped=True),
        lambda path: (ranking_file.load_ranking(path), ranking_file.load_ranking_metadata(path)),
    ),
    "verifications": _written(
        "v",
        _verifications,
        lambda path: load_verifications(path).heads(0),
        *("v/block-00000.npz", "v/manifest.json"),
    ),
    "whitening": _written(
        "w.npz",
        lambda path: whitening.save_whitening(
            path, whitening.Whitening(np.zeros(3), np.eye(3), "pca")
        ),
        whitening.load_whitening,
    ),
    "weights": _written(
        "w.npz",
        lambda path: checkpoint.save_weights(_model(), path),
        lambda path: checkpoint.load_weights(_model(), path),
    ),
    "training_state": _written("step-000000005.npz", _save_state, run_state.load_state),
    "foreign_npz": _written(
        "w.npz",
        lambda path: npz.write_npz(path, {"a.weight": np.ones((2, 3)), "b": np.zeros(4)}),
        foreign_files.read_arrays,
    ),
    "safetensors": _written(
        "w.safetensors",
        lambda path: save_file({"a": np.ones((2, 3), np.float32)}, path),
        foreign_files.read_arrays,
    ),
    "hdf5_weights": _written("w.h5", _hdf5, foreign_files.read_arrays)._replace(
        is_the_librarys=True
    ),
    "pdparams": _bytes(
        "w.pdparams",
        pickle.dumps({"a": np.ones((2, 3), np.float32), "b": {"c": np.zeros(2)}}, 2),
        foreign_files.read_arrays,
    ),
    "tensorflow_checkpoint": _written(
        "ckpt",
        _checkpoint,
        lambda path: foreign_files.read_arrays(f"{path}.index"),
        *(f"ckpt{suffix}" for suffix in TENSORFLOW),
    ),
    "delf": _written(
        "a.delf", lambda path: delf_format.write_delf(path, LOCAL), delf_format.read_delf
    ),
    "datum": _written(
        "a.datum", lambda path: delf_format.write_datum(path, np.eye(3)), delf_format.read_datum
    ),
    "ground_truth_pkl": _bytes("g.pkl", pickle.dumps(GROUND_TRUTH, 2), revisitop.read_ground_truth),
    "ground_truth_mat": _written(
        "g.mat",
        lambda path: scipy.io.savemat(
            path,
            {
                **{name: np.array(GROUND_TRUTH[name], object) for name in ("imlist", "qimlist")},
                "gnd": [
                    {name: np.array(rows) + 1.0 for name, rows in GROUND_TRUTH["gnd"][0].items()}
                ],
            },
        ),
        revisitop.read_ground_truth,
    ),
    "sfm120k_pkl": _bytes(
        "s.pkl", pickle.dumps(SFM, 2), lambda path: sfm120k.read_database(path, "train")
    ),
    "pickle": _bytes(
        "p.pkl",
        pickle.dumps({"a": [1, 2.5, (None, True)], "b": np.arange(6).reshape(2, 3), "c": "é"}, 5),
        safe_pickle.load,
    ),
    "store": _written(
        "s",
        _store,
        _read_store,
        *("s/manifest.json", "s/ids.json", "s/block-00000-of-00001-000000.safetensors"),
    ),
    "exact_index": _written("i", _index("exact"), _search),
    "faiss_index": _written("i", _index("SQ8"), _search),
    "local_index": _written("i", _local_index, LocalIndex.load),
    "codebook": _written(
        "c",
        lambda path: codebook.save_codebook(path, RNG.normal(size=(4, 3))),
        codebook.load_codebook,
    ),
    "hloc": _written("f.h5", _exported("hloc"), _import("hloc"))._replace(is_the_librarys=True),
    "npy": _written("f.npy", _exported("npy"), _import("npy"), "f.npy", "f.ids.json"),
    "config": _bytes("c.textproto", str(CONFIG).encode(), lambda p: config.load_experiment(str(p))),
    "retrieval_json": _bytes(
        "retrieval.json", FACTS, lambda path: retrieve.read_folder(path.parent)
    ),
    "labels": _bytes("labels.csv", b"image,place\na.jpg,1\nb.jpg,2\n", folder.read_labels),
    "train_clean": _bytes(
        "t.csv",
        b"landmark_id,images\n1,00aa11 22bb33\n7,44cc55\n",
        lambda path: list(gldv2.read_train_clean(path)),
    ),
    "metrics_json": _written("m.json", _results, results.load_results),
    "metrics_csv": _bytes(
        "metrics.csv",
        b"step,loss,rate\n5,1.5,0.1\n10,0.5,0.1\n",
        lambda path: metrics_log.MetricsLog(path.parent, 9).close(),
    ),
    "records": _written("train-00000", _records, lambda path: files.scan(path, check="full")),
    "records_manifest": _bytes(
        "records-train.json",
        json.dumps(
            {
                "format": "delf_tf records 1",
                "split": "train",
                "num_classes": 2,
                "source": {},
                "fingerprint": "f" * 16,
                "shards": [{"name": "train-00000", "num_records": 3, "num_bytes": 200}],
                "failed": [["a.jpg", "no image"]],
            }
        ).encode(),
        schema.read_manifest,
    ),
    "jpeg": _picture("JPEG"),
    "progressive_jpeg": _picture("JPEG", progressive=True),
    "cmyk_jpeg": _picture("JPEG", "CMYK"),
    "png": _picture("PNG"),
    "transparent_png": _picture("PNG", "LA"),
    "palette_png": _picture("PNG", "P", transparency=3),
    "webp": _picture("WEBP"),
    "lossless_webp": _picture("WEBP", "RGBA", lossless=True),
    "gif": _picture("GIF"),
    "bmp": _picture("BMP"),
}
