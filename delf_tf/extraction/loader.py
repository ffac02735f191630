"""Reads images at the size that they are extracted at."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from delf_tf.checks import InputError, require, require_choice
from delf_tf.datasets import images
from delf_tf.extraction import pyramid
from delf_tf.extraction.settings import MIN_SIDE_PX
from delf_tf.features.sources import Source, modified, read_source
from delf_tf.types import ImageRef

# Decoded images waiting for the network; bounds memory whatever the number of images.
_MAX_DECODED = 4


class Loaded(NamedTuple):
    """An image, uint8 [H, W, 3], and the (height, width) of the file that it was resized from."""

    image: np.ndarray
    full_size: tuple[int, int]


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

    def load(self, ref: ImageRef) -> Loaded:
        """Returns the image of a reference.

        Raises:
          ImageError: unreadable, or a side below MIN_SIDE_PX after the limit.
        """
        return self.limit(images.read_image(ref, **self._read_options))

    def limit(self, image: np.ndarray) -> Loaded:
        """Returns an image that is read already, uint8 [H, W, 3].

        Raises:
          ImageError: a side below MIN_SIDE_PX after the limit.
        """
        limited = pyramid.resize_to_limit(image, **self._limits)
        if min(limited.shape[:2]) < MIN_SIDE_PX:
            raise images.ImageError(
                f"An image must be at least {MIN_SIDE_PX} pixels on each side at the size it is "
                f"extracted at. Received: {limited.shape[1]}x{limited.shape[0]}."
            )
        return Loaded(limited, image.shape[:2])


class RecordingLoader:
    """Loads images, and keeps which files they were.

    Attributes:
      sources: by id.
      times: when each file was last written, nanoseconds, by id.
    """

    def __init__(self, loader: ImageLoader):
        """Loads by `loader`."""
        self._loader = loader
        self.sources: dict[str, Source] = {}
        self.times: dict[str, int] = {}

    def load(self, ref: ImageRef) -> Loaded:
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


def load_ahead(
    refs: Iterable[ImageRef], loader: ImageLoader | RecordingLoader, num_threads: int
) -> Iterator[Loaded | str]:
    """Yields images, or the reason why one cannot be read, while threads decode the next few."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        waiting: collections.deque[concurrent.futures.Future[Loaded]] = collections.deque()
        try:
            for ref in refs:
                waiting.append(pool.submit(loader.load, ref))
                if len(waiting) > max(_MAX_DECODED, num_threads):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()


def _result(future: concurrent.futures.Future[Loaded]) -> Loaded | str:
    try:
        return future.result()
    except InputError as error:
        return one_line(error)


def one_line(error: InputError) -> str:
    """Returns an error's message without line breaks, as a store keeps it."""
    return " ".join(str(error).split())
