"""Seeded features for the store's tests."""

from __future__ import annotations

import hashlib

import numpy as np

from delf_tf.features.store import ImageFeatures, create, writer
from delf_tf.types import LocalFeatures

GLOBAL_DIM, LOCAL_DIM = 8, 4
DIMS = {"global_dim": GLOBAL_DIM, "local_dim": LOCAL_DIM}


def sample(name, *, num=None):
    """Features that depend on the id alone; 0 to 6 local ones."""
    rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    num = int(rng.integers(0, 7)) if num is None else num
    vector = rng.normal(size=GLOBAL_DIM)
    local = LocalFeatures(
        rng.uniform(0, 500, (num, 2)),
        rng.normal(size=(num, LOCAL_DIM)),
        rng.random(num),
        rng.choice([0.5, 1, 2], num),
    )
    return ImageFeatures(vector / np.linalg.norm(vector), local)


def fill(path, *, shard=0, num_shards=1, bad=(), order=1):
    """Writes all that is pending; the ids in `bad` fail."""
    with writer(path, shard, num_shards) as shard_writer:
        for block, ids in shard_writer.pending()[::order]:
            features = [None if one in bad else sample(one) for one in ids]
            shard_writer.write(block, ids, features, {one: "no image" for one in ids if one in bad})


def make(path, ids, *, num_shards=1, block_size=3, bad=(), **arguments):
    """A whole store of samples."""
    arguments = {**DIMS, "fingerprint": "f" * 16, **arguments}
    create(path, ids, num_shards=num_shards, block_size=block_size, **arguments)
    for shard in range(num_shards):
        fill(path, shard=shard, num_shards=num_shards, bad=bad)
    return path


def names(num):
    return [f"folder/ä {i}.jpg" for i in range(num)]


def tree(path):
    """Content of every file below a folder, by relative path."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def assert_same(got, expected):
    """Equal features, to the bit."""
    np.testing.assert_array_equal(got.global_descriptor, expected.global_descriptor)
    for field in ("locations", "descriptors", "scores", "scales"):
        np.testing.assert_array_equal(getattr(got.local, field), getattr(expected.local, field))
