"""File locks that end with their holder, and clear errors from the file system."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import logging

from delf_tf import artifacts

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class FileLock:
    """An exclusive lock, held from construction to `release` or the end of the process."""

    def __init__(self, path: Path, *, wait: bool):
        """Takes the lock.

        Args:
          path: a file that is made for the lock and removed with it.
          wait: whether to wait for another holder.

        Raises:
          BlockingIOError: held by another, and `wait` is false.
        """
        self._path = path
        self._descriptor = -1
        while not self._take(wait):
            pass

    def release(self) -> None:
        """Gives the lock back; may be called twice."""
        if self._descriptor >= 0:
            # Removed while it is held, so that nobody else can hold this very file.
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, wait: bool) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            logging.warning("%s: this file system has no locks; start one writer only", self._path)
        if self._is_current(descriptor):
            self._descriptor = descriptor
            return True
        os.close(descriptor)
        return False

    def _is_current(self, descriptor: int) -> bool:
        # The former holder removed the file between our opening and our locking it.
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock at `path` for the block, after waiting for it."""
    lock = FileLock(path, wait=True)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what the file system refuses below `folder` into errors that say what to do.

    Raises:
      InputError: instead of an OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise artifacts.refused(error, folder) from error
