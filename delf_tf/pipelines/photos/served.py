"""What the page of `serve` searches: a folder of images, as it is or followed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from delf_tf.artifacts import StrPath
from delf_tf.pipelines import indexing
from delf_tf.pipelines.photos.model import Model
from delf_tf.pipelines.photos.photos import Photos
from delf_tf.serving.collection import Collection
from delf_tf.serving.live import LiveFolder


def collection(photos: Photos, methods: Sequence[str] = ()) -> Collection:
    """Returns what a page searches, with network and index loaded.

    Args:
      photos: the images and features.
      methods: of re-ranking that can be chosen beside the config's.

    Raises:
      InputError: a method that the config has no settings for.
    """
    photos.runtime.extractor()
    photos.index  # noqa: B018 - builds it before the first visitor comes
    message = photos.runtime.message
    names = [message.rerank.method, *methods] if message.HasField("rerank") else []
    for name in names:
        photos.reranker(name)
    return Collection(
        photos.refs,
        photos.describe,
        photos.rank,
        {name: functools.partial(photos.verify, method=name) for name in names},
        photos.read_local,
        indexing.contents(photos.store),
    )


def live_folder(
    model: Model,
    images_dir: StrPath,
    features_dir: StrPath,
    *,
    methods: Sequence[str] = (),
    num_threads: int = 2,
) -> LiveFolder:
    """Returns a folder that a page searches while it changes.

    Args:
      model: makes the features.
      images_dir: of the images.
      features_dir: receives the features; see `Model.extract`.
      methods: see `collection`.
      num_threads: that decode images, and verify pairs.

    Raises:
      InputError: as `Model.extract` and `collection`.
    """

    def follow() -> Collection:
        photos = model.extract(images_dir, features_dir, num_threads=num_threads)
        return collection(photos, methods)

    return LiveFolder(images_dir, follow, model.runtime.loader().limit)
