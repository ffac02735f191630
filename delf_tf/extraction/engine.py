"""Runs an extractor over a collection into a feature store; it may be killed at any moment."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import InputError, require, require_choice
from delf_tf.datasets import images
from delf_tf.extraction import pyramid
from delf_tf.extraction.array_extractor import ArrayExtractor, SameSizeBatches
from delf_tf.extraction.settings import MIN_SIDE_PX
from delf_tf.features import store
from delf_tf.features.generations import updates
from delf_tf.features.sources import Source, add_times, modified, read_source
from delf_tf.progress import Progress
from delf_tf.types import ImageRef, LocalFeatures

if TYPE_CHECKING:
    from delf_tf.extraction.batches import BatchExtractor
    from delf_tf.extraction.extractor import Extractor

    AnyExtractor = Extractor | ArrayExtractor
    Batches = BatchExtractor | SameSizeBatches

# Decoded images waiting for the network; bounds memory whatever the number of images.
_MAX_DECODED = 4
# With batches: images of as many batches are gathered, to find some of like size among them.
_BATCHES_AHEAD = 4


class ImageLoader:
    """Decodes images and resizes them to the configured limits."""

    def __init__(
        self,
        *,
        max_side: int = -1,
        min_side: int = -1,
        max_pixels: int | None = None,
        multiple: int = 1,
        resize_filter: str = "bilinear",
    ):
        """Keeps the limits.

        Args:
          max_side: longest side in pixels, -1 for no limit.
          min_side: images below this longest side are enlarged, -1 for never.
          max_pixels: images with more are not decoded; None for the reader's own limit.
          multiple: both sides are made multiples of this; see pyramid.limited_size.
          resize_filter: a name of pyramid.FILTERS.

        Raises:
          InputError: a multiple below 1, an unknown filter.
        """
        require(multiple >= 1, "size_multiple must be at least 1.", size_multiple=multiple)
        require_choice("resize_filter", resize_filter, pyramid.FILTERS)
        self._limits = {
            "max_side": max_side,
            "min_side": min_side,
            "multiple": multiple,
            "resize_filter": resize_filter,
        }
        self._read_options = {} if max_pixels is None else {"max_pixels": max_pixels}

    def load(self, ref: ImageRef) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns the limited image, uint8 [H, W, 3], and the (height, width) it was read with.

        Raises:
          ImageError: unreadable, or a side below MIN_SIDE_PX after the limit.
        """
        return self.limit(images.read_image(ref, **self._read_options))

    def limit(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """As `load`, of an image that is read already.

        Raises:
          ImageError: a side below MIN_SIDE_PX after the limit.
        """
        limited = pyramid.resize_to_limit(image, **self._limits)
        if min(limited.shape[:2]) < MIN_SIDE_PX:
            raise images.ImageError(
                f"An image must be at least {MIN_SIDE_PX} pixels on each side at the size it is "
                f"extracted at. Received: {limited.shape[1]}x{limited.shape[0]}."
            )
        return limited, image.shape[:2]


class _RecordingLoader:
    """Loads images, and keeps which files they were.

    Attributes:
      sources: by id.
      times: when each file was last written, nanoseconds, by id.
    """

    def __init__(self, loader: ImageLoader):
        self._loader = loader
        self.sources: dict[str, Source] = {}
        self.times: dict[str, int] = {}

    def load(self, ref: ImageRef) -> tuple[np.ndarray, tuple[int, int]]:
        """As ImageLoader.load; refuses a file that is replaced while it is read."""
        try:
            before = modified(ref.path)
            loaded = self._loader.load(ref)
            source = read_source(ref.path)
            if modified(ref.path) == before:
                self.sources[ref.id], self.times[ref.id] = source, before[1]
                return loaded
        except OSError:
            # The loader words what is wrong with the file.
            return self._loader.load(ref)
        raise images.ImageError("An image must not change while it is read; run again.")


def extract_images(
    batches: Batches, images: Sequence[np.ndarray], full_sizes: Sequence[tuple[int, int]]
) -> list[store.ImageFeatures]:
    """Extracts several images at once; see `extract_image`."""
    use_local = batches.extractor.use_local_features
    return [
        _image_features(outputs, image.shape[:2], full_size, use_local)
        for outputs, image, full_size in zip(batches(images), images, full_sizes)
    ]


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


def _create_batches(extractor: AnyExtractor, batch_size: int) -> Batches:
    if isinstance(extractor, ArrayExtractor):
        return SameSizeBatches(extractor, batch_size)
    from delf_tf.extraction.batches import BatchExtractor  # noqa: PLC0415 - imports TensorFlow

    return BatchExtractor(extractor, batch_size=batch_size)


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
        on accelerators. Memory holds four batches of images and no more.
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
    """Computes what writers of a store want."""

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
        self._store_dir, self._extractor, self._num_threads = store_dir, extractor, num_threads
        self._by_id = {ref.id: ref for ref in refs}
        self._loader = _RecordingLoader(loader)
        self._batches = None if batch_size == 1 else _create_batches(extractor, batch_size)

    def fill(self, work: updates.Work) -> None:
        """Writes the blocks of one shard of a generation that are to be computed."""
        with store.writer(work.folder, work.shard, work.num_shards) as writer:
            pending = writer.pending(verify=work.verify, among=work.ids)
            blocks = [(block, [self._by_id[one] for one in ids]) for block, ids in pending]
            refs = [ref for _, block_refs in blocks for ref in block_refs]
            total = writer.num_images
            with Progress(total, "images", "extract", done=total - len(refs)) as progress:
                results = self._results(blocks, refs, progress)
                for block, ids in pending:
                    features, failures = _collect(results, ids)
                    known = self._loader.sources
                    sources = {one: known.pop(one) for one in ids if one in known}
                    writer.write(block, ids, features, failures, sources)
            name = f"{work.folder.name}-{work.shard}"
            times = self._loader.times
            add_times(
                self._store_dir, name, {ref.id: times[ref.id] for ref in refs if ref.id in times}
            )

    def _results(
        self,
        blocks: Sequence[tuple[int, Sequence[ImageRef]]],
        refs: Sequence[ImageRef],
        progress: Progress,
    ) -> Iterator[tuple[ImageRef, store.ImageFeatures | str]]:
        extractor, loader, num_threads = self._extractor, self._loader, self._num_threads
        if self._batches is None:
            return _extract_all(iter(refs), extractor, loader, num_threads, progress)
        return _extract_batches(blocks, self._batches, loader, num_threads, progress)


def sample_descriptors(
    refs: Sequence[ImageRef],
    extractor: AnyExtractor,
    loader: ImageLoader,
    *,
    max_num_samples: int,
    num_threads: int = 2,
) -> tuple[np.ndarray, dict[str, str]]:
    """Gathers local descriptors for fitting a PCA, evenly from all images.

    Args:
      refs: images to draw from.
      extractor: gives local features without projection.
      loader: decodes and limits.
      max_num_samples: most descriptors.
      num_threads: decoding threads.

    Returns:
      float32 [N, D], L2-normalised, N may be 0; and for each image that failed, why.
    """
    per_image = max(1, max_num_samples // max(1, len(refs)))
    chunks, failures = [np.zeros((0, extractor.local_dim), np.float32)], {}
    with Progress(len(refs), "images", "sample local descriptors") as progress:
        for ref, features in _extract_all(iter(refs), extractor, loader, num_threads, progress):
            if isinstance(features, str):
                failures[ref.id] = features
            else:
                step = max(1, len(features.local) // per_image)
                chunks.append(features.local.descriptors[::step][:per_image])
    return np.concatenate(chunks)[:max_num_samples], failures


def _extract_all(
    refs: Iterator[ImageRef],
    extractor: AnyExtractor,
    loader: ImageLoader,
    num_threads: int,
    progress: Progress,
) -> Iterator[tuple[ImageRef, store.ImageFeatures | str]]:
    """Yields each image's features, or the reason why it has none, in order."""
    for ref, loaded in _load_ahead(refs, loader, num_threads):
        try:
            image, full_size = loaded.result()
            features: store.ImageFeatures | str = extract_image(extractor, image, full_size)
        except InputError as error:
            features = " ".join(str(error).split())
            logging.warning("%s: %s", ref.id, features)
        progress.update(failed=int(isinstance(features, str)))
        yield ref, features


def _extract_batches(
    blocks: Sequence[tuple[int, Sequence[ImageRef]]],
    batches: Batches,
    loader: ImageLoader,
    num_threads: int,
    progress: Progress,
) -> Iterator[tuple[ImageRef, store.ImageFeatures | str]]:
    """Yields what `_extract_all` does; a block's images share batches with no other block's.

    So a block that is made again after a kill is made of the same batches, to the same bytes.
    """
    size = _BATCHES_AHEAD * batches.batch_size
    for _, refs in blocks:
        for first in range(0, len(refs), size):
            window = refs[first : first + size]
            results = _extract_window(window, batches, loader, num_threads)
            for ref, features in zip(window, results):
                if isinstance(features, str):
                    logging.warning("%s: %s", ref.id, features)
                progress.update(failed=int(isinstance(features, str)))
                yield ref, features


def _extract_window(
    refs: Sequence[ImageRef], batches: Batches, loader: ImageLoader, num_threads: int
) -> list[store.ImageFeatures | str]:
    loaded = [_result(future) for _, future in _load_ahead(iter(refs), loader, num_threads)]
    readable = [one for one in loaded if not isinstance(one, str)]
    features = iter(
        extract_images(batches, [image for image, _ in readable], [size for _, size in readable])
    )
    return [one if isinstance(one, str) else next(features) for one in loaded]


def _result(future: concurrent.futures.Future) -> tuple[np.ndarray, tuple[int, int]] | str:
    """Returns what the loader gave, or why it gave nothing."""
    try:
        return future.result()
    except InputError as error:
        return " ".join(str(error).split())


def _load_ahead(
    refs: Iterator[ImageRef], loader: ImageLoader, num_threads: int
) -> Iterator[tuple[ImageRef, concurrent.futures.Future]]:
    """Yields images in order while threads decode the next few."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for ref in refs:
                waiting.append((ref, pool.submit(loader.load, ref)))
                if len(waiting) > max(_MAX_DECODED, num_threads):
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _collect(
    results: Iterator[tuple[ImageRef, store.ImageFeatures | str]], ids: Sequence[str]
) -> tuple[list[store.ImageFeatures | None], dict[str, str]]:
    features: list[store.ImageFeatures | None] = []
    failures: dict[str, str] = {}
    for one in ids:
        _, result = next(results)
        if isinstance(result, str):
            failures[one] = result
        features.append(None if isinstance(result, str) else result)
    return features, failures
