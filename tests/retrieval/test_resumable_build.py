"""Index builds that are killed, resumed, spoilt and repeated."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.local_codes import train_codes
from delf_tf.retrieval.resumable_build import build
from delf_tf.retrieval.votes import LocalIndex
from delf_tf.retrieval.words.asmk import AsmkIndex

RANDOM = np.random.default_rng(0)
CENTROIDS = RANDOM.standard_normal((8, 4))
IMAGES = {f"image{i}": RANDOM.standard_normal((i, 4)) for i in range(9)}
CODES = train_codes(RANDOM.standard_normal((50, 4)))
KINDS = {
    "asmk": lambda: AsmkIndex(CENTROIDS),
    "local": lambda: LocalIndex(faiss.clone_index(CODES)),
}


def _build(path, kind, read=IMAGES.__getitem__, ids=tuple(IMAGES)):
    empty = KINDS[kind]()
    return build(path, empty, ids, read, save_interval_s=0)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def _killed(path, kind, at="image5"):
    def read(image_id):
        if image_id == at:
            raise KeyboardInterrupt
        return IMAGES[image_id]

    with pytest.raises(KeyboardInterrupt):
        _build(path, kind, read)
    assert not path.exists()


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path, kind):
    whole = _build(tmp_path / "whole", kind)
    _killed(tmp_path / "killed", kind)
    seen = []

    def read(image_id):
        seen.append(image_id)
        return IMAGES[image_id]

    resumed = _build(tmp_path / "killed", kind, read)
    assert seen == ["image5", "image6", "image7", "image8"]
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["killed", "whole"]


@pytest.mark.parametrize("spoil", ["damaged", "other ids", "other kind"])
def test_what_does_not_fit_is_built_from_the_start(tmp_path, kind, spoil):
    path = tmp_path / "index"
    ids = tuple(IMAGES)
    if spoil == "other kind":
        (other,) = set(KINDS) - {kind}
        _killed(path, other)
    else:
        _killed(path, kind)
    if spoil == "damaged":
        partial = tmp_path / "index.partial"
        partial.write_bytes(partial.read_bytes()[:-1])
    elif spoil == "other ids":
        ids = ids[::-1]
    built = _build(path, kind, ids=ids)
    assert built.read_bytes() == _build(tmp_path / "whole", kind, ids=ids).read_bytes()


def test_no_images_and_a_bad_one(tmp_path, kind):
    assert len(type(KINDS[kind]()).load(_build(tmp_path / "none", kind, ids=()))) == 0
    with pytest.raises(InputError, match="descriptors of image0"):
        _build(tmp_path / "bad", kind, lambda image_id: np.zeros((2, 3)))
    filled = KINDS[kind]()
    filled.add("a", IMAGES["image1"])
    with pytest.raises(InputError, match="must be empty"):
        build(tmp_path / "x", filled, (), IMAGES.__getitem__)
