"""A folder of images that is served, and changes meanwhile."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.datasets import folder
from delf_tf.features import sources
from delf_tf.serving.answers import ConflictError, UnknownItemError
from delf_tf.serving.collection import Collection
from delf_tf.serving.service import RetrievalService

# Sizes and times of images' files, by id.
Listing = dict[str, tuple[int, int]]
# The watch ends with the server; an update is then left to its own end, or the process's.
_END_TIMEOUT_S = 10


class LiveFolder:
    """Images and features that are searched while they change, one update at a time.

    An update follows the whole folder, whatever has changed in it, and shows when it is complete.
    See serving.updates.Changes.

    Attributes:
      service: answers.
      images_dir: of the images.
    """

    def __init__(
        self,
        images_dir: StrPath,
        follow: Callable[[], Collection],
        limit: Callable[[np.ndarray], object],
    ):
        """Follows the folder for the first time.

        Args:
          images_dir: of the images.
          follow: makes the features those of the images of now, and opens them.
          limit: refuses an image, uint8 RGB [H, W, 3], that the network cannot take.

        Raises:
          InputError: no images, or of `follow`.
        """
        self.images_dir = Path(images_dir)
        self._make, self._limit = follow, limit
        self._lock = threading.Lock()
        self._followed = self._listing()
        self.service = RetrievalService(follow())

    def add(self, name: str, content: bytes, image: np.ndarray) -> None:
        """See Changes."""
        self._limit(image)
        path = self._inside(name)
        with self._lock:
            if os.path.lexists(path):
                raise ConflictError("An image of this name is there; delete it first.")
            try:
                artifacts.write_bytes(path, content)
                self._follow()
                if name not in (ref.id for ref in self.service.refs):
                    raise ConflictError("This picture was changed while it was added.")
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def remove(self, name: str) -> None:
        """See Changes."""
        with self._lock:
            refs = {ref.id: ref for ref in self.service.refs}
            if name not in refs:
                raise UnknownItemError("No image of the collection has this id.")
            if len(refs) == 1:
                raise ConflictError("A collection must hold at least one image; this is the last.")
            path = self._inside(name)
            # Passed over when the folder is listed; back in its place if the update fails.
            aside = path.with_name(f".removed-{secrets.token_hex(4)}")
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
            try:
                self._follow()
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    aside.rename(path)
                raise
            aside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def watched(self, interval_s: float = 5.0) -> Iterator[None]:
        """Follows the folder in the background, until the block ends.

        Args:
          interval_s: seconds between looks; a change is followed when two looks see the same.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended, interval_s), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_END_TIMEOUT_S)

    def _watch(self, ended: threading.Event, interval_s: float) -> None:
        before, told = self._followed, ""
        while not ended.wait(interval_s):
            before, fault = self._look(before)
            if fault not in ("", told):
                logging.error("The folder is served as it was before: %s", fault)
            told = fault

    def _look(self, before: Listing) -> tuple[Listing, str]:
        """Follows the folder if it has changed and settled; returns its listing and what failed."""
        try:
            with self._lock:
                now = self._listing()
                if now == before != self._followed:
                    self._follow()
        except Exception as fault:  # Whatever it is, the watch goes on.
            return before, f"{type(fault).__name__}: {fault}"
        return now, ""

    def _follow(self) -> None:
        """Serves the images of now; the lock is held."""
        listing = self._listing()
        self.service.replace(self._make())
        self._followed = listing

    def _listing(self) -> Listing:
        found = {}
        for ref in folder.list_images(self.images_dir):
            with contextlib.suppress(FileNotFoundError):
                found[ref.id] = sources.modified(ref.path)
        return found

    def _inside(self, name: str) -> Path:
        """Returns an image's path, which no link may lead out of the folder.

        Raises:
          InputError: one does.
        """
        path, root = self.images_dir / name, self.images_dir.resolve()
        parent = path.parent.resolve()
        require(parent == root or root in parent.parents, "An image must lie in the folder.")
        return path
