"""Runs an extractor over a collection into a feature store; it may be killed at any moment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import InputError, require
from delf_tf.extraction import pyramid
from delf_tf.extraction.array_extractor import ArrayExtractor
from delf_tf.extraction.loader import ImageLoader, Loaded, RecordingLoader, load_ahead, one_line
from delf_tf.features import store
from delf_tf.features.generations import updates
from delf_tf.features.sources import add_times
from delf_tf.progress import Progress
from delf_tf.types import ImageRef, LocalFeatures

if TYPE_CHECKING:
    from delf_tf.extraction.extractor import Extractor

    AnyExtractor = Extractor | ArrayExtractor

Extract = Callable[[Sequence[Loaded]], list[store.ImageFeatures]]

# With batches: images of as many batches are gathered, to find some of like size among them.
_BATCHES_AHEAD = 4


def extract_image(
    extractor: AnyExtractor, image: np.ndarray, full_size: tuple[int, int] | None = None
) -> store.ImageFeatures:
    """Extracts one image.

    Args:
      extractor: the graph.
      image: uint8 RGB [H, W, 3].
      full_size: (height, width) that locations are to be in, if `image` was resized from it.

    Returns:
      Features; locations in pixels of the full-size image, scales relative to `image`.
    """
    size = image.shape[:2]
    return _image_features(extractor(image), size, full_size or size, extractor.use_local_features)


def _image_features(
    outputs: Mapping[str, Any], size: tuple[int, int], full_size: tuple[int, int], use_local: bool
) -> store.ImageFeatures:
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    local = None
    if use_local:
        local = LocalFeatures(
            pyramid.to_larger_pixels(arrays["locations"], size, full_size),
            arrays["descriptors"],
            arrays["scores"],
            arrays["scales"],
        )
    return store.ImageFeatures(arrays.get("global_descriptor"), local)


def extract_to_store(
    refs: Sequence[ImageRef],
    extractor: AnyExtractor,
    store_dir: artifacts.StrPath,
    *,
    loader: ImageLoader,
    fingerprint: str,
    shard_index: int = 0,
    num_shards: int = 1,
    block_size: int = 64,
    num_threads: int = 2,
    batch_size: int = 1,
    local_codec: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Makes a store follow a collection, or one shard of the work; nothing is computed twice.

    What an earlier run finished is kept. Images that are new, or whose files have changed, are
    computed; those that are gone are left out. Images that cannot be read are recorded in the store
    with their reason and never stop the run.

    Args:
      refs: the whole collection, also when only a shard of it is extracted.
      extractor: the graph.
      store_dir: the feature store.
      loader: decodes and limits.
      fingerprint: of everything that shapes the features; a store made otherwise is refused.
      shard_index: which shard, 0..num_shards-1.
      num_shards: number of shards.
      block_size: images written together.
      num_threads: decoding threads.
      batch_size: images of like size that the network sees at once, see BatchExtractor; worth it
        on accelerators. Memory holds four batches of images and a few more.
      local_codec: how local features are stored, see features.creation.create.
      overwrite: start anew, whatever the store holds; with one shard only, as a process cannot
        know which shards were written before the others started.

    Returns:
      The store's path.

    Raises:
      InputError: a store of another fingerprint, another writer of the shard, a full disk,
        overwriting with several shards.
    """
    require(
        not overwrite or num_shards == 1,
        "overwrite needs num_shards=1: it would delete what other shards have written.",
        hint="Delete the store's folder, then start all shards without --overwrite.",
        num_shards=num_shards,
    )
    ids = [ref.id for ref in refs]
    path = updates.open_store(
        store_dir,
        ids,
        fingerprint=fingerprint,
        num_shards=num_shards,
        block_size=block_size,
        global_dim=extractor.global_dim,
        local_dim=extractor.local_dim,
        local_codec=local_codec,
        overwrite=overwrite,
    )
    filler = _Filler(path, refs, extractor, loader, num_threads=num_threads, batch_size=batch_size)
    new = updates.absent(path)
    for work in updates.unfinished(path, ids, shard_index, num_shards):
        filler.fill(work)
    # A part of an image is not known by its file.
    paths = {ref.id: ref.path for ref in refs if ref.box is None}
    options = {"num_shards": num_shards, "block_size": block_size}
    update = updates.plan(path, ids, paths, new)
    while update is not None and update.to_compute and not updates.begin(update, **options):
        update = updates.plan(path, ids, paths, new)
    if update is None:
        return path
    if update.to_compute:
        wanted = frozenset(update.to_compute)
        filler.fill(updates.Work(update.generation, shard_index, num_shards, wanted, True))
    if updates.publish(update):
        logging.info("%s: %s.", path, update)
    return path


class _Filler:
    """Extracts the images that a shard of a store still lacks."""

    def __init__(
        self,
        store_dir: Path,
        refs: Sequence[ImageRef],
        extractor: AnyExtractor,
        loader: ImageLoader,
        *,
        num_threads: int,
        batch_size: int,
    ):
        """Keeps the arguments of `extract_to_store`."""
        self._store_dir, self._num_threads = store_dir, num_threads
        self._by_id = {ref.id: ref for ref in refs}
        self._loader = RecordingLoader(loader)
        self._extract = _in_batches(extractor, batch_size)
        self._window = 1 if batch_size == 1 else _BATCHES_AHEAD * batch_size

    def fill(self, work: updates.Work) -> None:
        """Writes the blocks of one shard of a generation that are to be computed."""
        with store.writer(work.folder, work.shard, work.num_shards) as writer:
            pending = writer.pending(verify=work.verify, among=work.ids)
            blocks = [[self._by_id[one] for one in ids] for _, ids in pending]
            refs = [ref for block in blocks for ref in block]
            total = writer.num_images
            with Progress(total, "images", "extract", done=total - len(refs)) as progress:
                # So that a block that is made again after a kill is made of the same batches, to
                # the same bytes, its images share batches with no other block's.
                windows = [
                    block[first : first + self._window]
                    for block in blocks
                    for first in range(0, len(block), self._window)
                ]
                results = _results(
                    windows, self._extract, self._loader, self._num_threads, progress
                )
                for block, ids in pending:
                    found = [next(results) for _ in ids]
                    failures = {i: one for i, one in zip(ids, found) if isinstance(one, str)}
                    features = [None if isinstance(one, str) else one for one in found]
                    known = self._loader.sources
                    sources = {one: known.pop(one) for one in ids if one in known}
                    writer.write(block, ids, features, failures, sources)
            name = f"{work.folder.name}-{work.shard}"
            times = self._loader.times
            add_times(
                self._store_dir, name, {ref.id: times[ref.id] for ref in refs if ref.id in times}
            )


def sample_descriptors(
    refs: Sequence[ImageRef],
    extractor: AnyExtractor,
    loader: ImageLoader,
    *,
    max_num_samples: int,
) -> tuple[np.ndarray, dict[str, str]]:
    """Gathers local descriptors for fitting a PCA, evenly from all images.

    Args:
      refs: images to draw from.
      extractor: gives local features without projection.
      loader: decodes and limits.
      max_num_samples: most descriptors.

    Returns:
      float32 [N, D], L2-normalised, N may be 0; and for each image that failed, why.
    """
    per_image = max(1, max_num_samples // max(1, len(refs)))
    chunks, failures = [np.zeros((0, extractor.local_dim), np.float32)], {}
    with Progress(len(refs), "images", "sample local descriptors") as progress:
        windows = [[ref] for ref in refs]
        results = _results(windows, _in_batches(extractor, 1), loader, 2, progress)
        for ref, features in zip(refs, results):
            if isinstance(features, str):
                failures[ref.id] = features
            else:
                step = max(1, len(features.local) // per_image)
                chunks.append(features.local.descriptors[::step][:per_image])
    return np.concatenate(chunks)[:max_num_samples], failures


def _in_batches(extractor: AnyExtractor, batch_size: int) -> Extract:
    """Returns what extracts several images, `batch_size` of like size together."""
    if batch_size == 1:
        return lambda loaded: [extract_image(extractor, *one) for one in loaded]
    if isinstance(extractor, ArrayExtractor):
        run: Any = functools.partial(extractor.extract_batches, batch_size=batch_size)
    else:
        from delf_tf.extraction.batches import BatchExtractor  # noqa: PLC0415 - TensorFlow

        run = BatchExtractor(extractor, batch_size=batch_size)

    def extract(loaded: Sequence[Loaded]) -> list[store.ImageFeatures]:
        outputs = run([one.image for one in loaded])
        return [
            _image_features(found, image.shape[:2], full_size, extractor.use_local_features)
            for found, (image, full_size) in zip(outputs, loaded)
        ]

    return extract


def _results(
    windows: Sequence[Sequence[ImageRef]],
    extract: Extract,
    loader: ImageLoader | RecordingLoader,
    num_threads: int,
    progress: Progress,
) -> Iterator[store.ImageFeatures | str]:
    """Yields each image's features, or the reason why it has none; windows go to `extract`."""
    waiting = load_ahead((ref for window in windows for ref in window), loader, num_threads)
    for window in windows:
        results = _extract_window([next(waiting) for _ in window], extract)
        for ref, result in zip(window, results):
            failed = isinstance(result, str)
            if failed:
                logging.warning("%s: %s", ref.id, result)
            progress.update(failed=int(failed))
            yield result


def _extract_window(
    loaded: Sequence[Loaded | str], extract: Extract
) -> list[store.ImageFeatures | str]:
    readable = [one for one in loaded if not isinstance(one, str)]
    try:
        features = iter(extract(readable))
    except InputError as error:
        return [one if isinstance(one, str) else one_line(error) for one in loaded]
    return [one if isinstance(one, str) else next(features) for one in loaded]
