"""Codebooks of visual words, learned from features that need not fit in memory.

Lloyd's k-means by passes over blocks of features, for up to 65,536 words and more. A killed run
goes on from its last checkpoint and ends with the bytes of a run that was not killed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath, fingerprint
from delf_tf.checks import InputError, as_array, invalid, require
from delf_tf.progress import Progress
from delf_tf.retrieval.index_file import read_index, write_index
from delf_tf.retrieval.words.word_assignment import WordAssigner

KIND = "codebook"
_CHECKPOINT_KIND = "codebook-checkpoint"
# Two words made from one that was too full lie apart by this part of their length.
_SPLIT = np.float32(1 / 1024)

Blocks = Callable[[], Iterable[np.ndarray]]


def train_codebook(
    blocks: Blocks,
    num_words: int,
    *,
    num_passes: int = 10,
    seed: int = 0,
    checkpoint_path: StrPath | None = None,
) -> np.ndarray:
    """Learns the words of a codebook.

    Args:
      blocks: gives, each time it is called, the same features in the same blocks [N, D]; one block
        at a time is in memory.
      num_words: K, at most the number of features.
      num_passes: over all blocks; each moves the words to the means of their features.
      seed: of the features that the words start from.
      checkpoint_path: written after each pass, gone on from if it is of the same training, and left
        for the caller to delete; None: none.

    Returns:
      float32 [K, D].

    Raises:
      InputError: fewer features than words, blocks of other widths, a NaN.
    """
    for name, value in (("num_words", num_words), ("num_passes", num_passes)):
        whole = isinstance(value, (int, np.integer)) and value >= 1
        require(whole, f"{name} must be a whole number of at least 1.", value=value)
    state = _start(blocks, num_words, seed)
    if checkpoint_path is not None:
        state = _resumed(state, checkpoint_path)
    with Progress(num_passes, "passes", "codebook", done=min(state.done, num_passes)) as progress:
        while state.done < num_passes:
            state = _one_pass(state, blocks)
            if checkpoint_path is not None:
                _write(state, checkpoint_path)
            progress.update()
    return state.words


def save_codebook(path: StrPath, centroids: np.ndarray) -> Path:
    """Writes float32 [K, D] words atomically, with checksum, and returns the path."""
    words = as_array("centroids", centroids, ("K", "D"))
    return write_index(
        path,
        KIND,
        fingerprint=codebook_fingerprint(words),
        ids=(),
        arrays={"centroids": words},
        parameters={},
    )


def load_codebook(path: StrPath) -> np.ndarray:
    """Returns the float32 [K, D] words of `save_codebook`.

    Raises:
      InputError: no such file, damaged, another kind, NaN.
    """
    content = read_index(path, KIND)
    words = as_array("centroids", content.array("centroids", np.float32, (None, None)), ("K", "D"))
    content.require_fingerprint(None, codebook_fingerprint(words))
    return words


def codebook_fingerprint(centroids: np.ndarray) -> str:
    """Returns the fingerprint of a codebook, float32 [K, D]."""
    return fingerprint(repr(centroids.shape), np.ascontiguousarray(centroids).tobytes())


@dataclasses.dataclass(frozen=True, eq=False)
class _State:
    """Where a training stands.

    Attributes:
      words: float32 [K, D].
      done: passes over the data.
      fingerprint: of the parameters and the words that it started from.
    """

    words: np.ndarray
    done: int
    fingerprint: str


def _start(blocks: Blocks, num_words: int, seed: int) -> _State:
    """Samples words among all features, each with the same chance, in one pass."""
    random = np.random.default_rng(seed)
    words: np.ndarray | None = None
    keys = np.full(num_words, np.inf)
    num_features = 0
    for block in _checked(blocks):
        if words is None:
            words = np.zeros((num_words, block.shape[1]), np.float32)
        # The num_words smallest of one random key a feature are a sample without repetition.
        drawn = random.random(len(block))
        all_keys = np.concatenate([keys, drawn])
        kept = np.sort(np.argsort(all_keys, kind="stable")[:num_words])
        words = np.concatenate([words, block])[kept]
        keys = all_keys[kept]
        num_features += len(block)
    if words is None or num_features < num_words:
        raise invalid(
            "There must be at least as many features as words.",
            hint="Give more images, or ask for fewer words.",
            num_features=num_features,
            num_words=num_words,
        )
    made_by = fingerprint(f"{num_words} {seed}", str(num_features), words.tobytes())
    return _State(words, 0, made_by)


def _one_pass(state: _State, blocks: Blocks) -> _State:
    words = state.words.copy()
    nearest = WordAssigner(words)
    sums, counts = np.zeros(words.shape), np.zeros(len(words))
    for block in _checked(blocks):
        block_sums, block_counts = _sums(block, nearest, len(words))
        sums += block_sums
        counts += block_counts
    used = counts > 0
    words[used] = (sums[used] / counts[used, None]).astype(np.float32)
    _split_full_words(words, counts)
    return dataclasses.replace(state, words=words, done=state.done + 1)


def _sums(
    block: np.ndarray, nearest: WordAssigner, num_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each word's sum of features, float64 [K, D], and their number, float64 [K]."""
    assigned = nearest.nearest(block)[:, 0]
    order = np.argsort(assigned, kind="stable")
    found, starts, counts = np.unique(assigned[order], return_index=True, return_counts=True)
    sums, numbers = np.zeros((num_words, block.shape[1])), np.zeros(num_words)
    if len(found):
        sums[found] = np.add.reduceat(block[order].astype(np.float64), starts, axis=0)
        numbers[found] = counts
    return sums, numbers


def _split_full_words(words: np.ndarray, counts: np.ndarray) -> None:
    """Replaces each word without features by one half of the fullest word, in place."""
    for empty in np.flatnonzero(counts == 0):
        full = int(np.argmax(counts))
        signs = np.where(np.arange(words.shape[1]) % 2, -_SPLIT, _SPLIT)
        words[empty] = words[full] * (1 - signs)
        words[full] = words[full] * (1 + signs)
        counts[empty] = counts[full] / 2
        counts[full] /= 2


def _checked(blocks: Blocks) -> Iterator[np.ndarray]:
    width: int | str = "D"
    for block in blocks():
        checked = as_array("a block of features", block, ("N", width))
        width = checked.shape[1]
        yield checked


def _write(state: _State, path: StrPath) -> None:
    write_index(
        path,
        _CHECKPOINT_KIND,
        fingerprint=state.fingerprint,
        ids=(),
        arrays={"words": state.words},
        parameters={"done": state.done},
    )


def _resumed(state: _State, path: StrPath) -> _State:
    """Returns the state of a checkpoint of this training, else the given one."""
    if not Path(path).exists():
        return state
    try:
        content = read_index(path, _CHECKPOINT_KIND)
        content.require_fingerprint(state.fingerprint, state.fingerprint)
        words = content.array("words", np.float32, state.words.shape)
        done = content.parameter("done", int)
    except InputError as error:
        logging.warning("The codebook is trained from the start: %s", error)
        return state
    return dataclasses.replace(state, words=words, done=max(done, 0))
