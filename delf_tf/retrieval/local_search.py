"""Builds and opens the index folders of local features, of type "asmk" and "local".

A folder holds `index`, the images; `codebook` or `quantizer`, what was learned; and manifest.json,
the features and settings, so that a killed build goes on and nothing else is mixed in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath, is_temporary, read_json, write_json
from delf_tf.checks import invalid, require, require_choice
from delf_tf.retrieval import resumable_build
from delf_tf.retrieval.changes import compare_images
from delf_tf.retrieval.local_index import LocalFeatureIndex
from delf_tf.retrieval.votes import LocalIndex
from delf_tf.retrieval.words.asmk import AsmkIndex
from delf_tf.retrieval.words.codebook import (
    codebook_fingerprint,
    load_codebook,
    save_codebook,
    train_codebook,
)

# A row a kind of index that is kept in a folder.
LOCAL_KINDS: dict[str, type[LocalFeatureIndex]] = {one.kind: one for one in (AsmkIndex, LocalIndex)}
NUM_SAMPLES = 1 << 20
_BLOCK = 64
_MAX_MANIFEST_BYTES = 1 << 20

# Gives an image's descriptors [N, D] by its id.
Reader = Callable[[str], np.ndarray]


def build_asmk(
    folder: StrPath,
    ids: Sequence[str],
    read: Reader,
    *,
    fingerprint: str,
    codebook: np.ndarray | None = None,
    num_words: int = 65536,
    contents: Mapping[str, str] | None = None,
    overwrite: bool = False,
    **kwargs: Any,
) -> Path:
    """Builds an `AsmkIndex`, after training its codebook if none is given.

    Args:
      folder: of the index; a build that was killed goes on there, and a finished index follows
        the images: it loses those that are gone, and gets those that are new or have changed.
      ids: the images.
      read: gives an image's descriptors.
      fingerprint: of the features.
      codebook: float32 [K, D]; None trains one on all images.
      num_words: K, if it is trained.
      contents: by id hex digits of the images' files, where that is known: what has changed.
      overwrite: replace an index in `folder`.
      **kwargs: of `AsmkIndex`.

    Returns:
      `folder`.

    Raises:
      InputError: an index in `folder` that was begun with other settings, fewer features than
        words, or as `AsmkIndex`.
    """
    folder = Path(folder)
    made_by = f"{num_words} words" if codebook is None else codebook_fingerprint(codebook)
    _begin(folder, "asmk", fingerprint, {"codebook": made_by, **kwargs}, overwrite)

    def learn() -> LocalFeatureIndex:
        if codebook is not None:
            return AsmkIndex(codebook, **kwargs)
        return AsmkIndex(_trained_codebook(folder, ids, read, num_words), **kwargs)

    return _build(folder, ids, read, learn, fingerprint=fingerprint, contents=contents or {})


def build_local(
    folder: StrPath,
    ids: Sequence[str],
    read: Reader,
    *,
    fingerprint: str,
    factory: str,
    contents: Mapping[str, str] | None = None,
    overwrite: bool = False,
    **kwargs: Any,
) -> Path:
    """Builds a `LocalIndex`, after training its cells and codes on a sample of the features.

    Args:
      folder: see `build_asmk`.
      ids: likewise.
      read: likewise.
      fingerprint: likewise.
      factory: see `LocalIndex.train`.
      contents: see `build_asmk`.
      overwrite: likewise.
      **kwargs: of `LocalIndex`.

    Returns:
      `folder`.

    Raises:
      InputError: an index in `folder` that was begun with other settings, too few features.
    """
    folder = Path(folder)
    _begin(folder, "local", fingerprint, {"factory": factory, **kwargs}, overwrite)

    def learn() -> LocalFeatureIndex:
        learned = folder / "quantizer"
        if not learned.exists():
            samples, num_features = _sample(ids, read)
            trained = LocalIndex.train(samples, factory, num_features=num_features, **kwargs)
            trained.save(learned)
        return LocalIndex.load(learned)

    return _build(folder, ids, read, learn, fingerprint=fingerprint, contents=contents or {})


def _build(
    folder: Path,
    ids: Sequence[str],
    read: Reader,
    learn: Callable[[], LocalFeatureIndex],
    *,
    fingerprint: str,
    contents: Mapping[str, str],
) -> Path:
    """Fills the empty index that `learn` returns, or makes a finished one follow the images."""
    if (folder / "index").is_file():
        return _follow(folder, ids, read, fingerprint, contents)
    empty = learn()
    empty.contents = dict(contents)
    resumable_build.build(folder / "index", empty, ids, read)
    return folder


def add_to_local(
    folder: StrPath,
    ids: Sequence[str],
    read: Reader,
    *,
    contents: Mapping[str, str] | None = None,
    fingerprint: str,
) -> tuple[Path, int]:
    """Adds the images that an index lacks, and writes it; returns the folder and their number.

    Raises:
      InputError: no index, or one of other features.
    """
    index = load_local(folder, fingerprint=fingerprint)
    known = set(index.ids)
    new = [one for one in ids if one not in known]
    index.add_all((one, read(one)) for one in new)
    index.contents = {**(contents or {}), **index.contents}
    index.save(Path(folder) / "index")
    return Path(folder), len(new)


def _follow(
    folder: Path, ids: Sequence[str], read: Reader, fingerprint: str, contents: Mapping[str, str]
) -> Path:
    """Makes a finished index hold the images of now; what was learned stays.

    Its rows are then in the order of `ids`, as in an index that is built anew.
    """
    index = load_local(folder, fingerprint=fingerprint)
    changes = compare_images(index.ids, index.contents, ids, contents)
    if index.ids != tuple(ids) or changes.changed:
        index.arrange([one for one in index.ids if one in changes.kept])
        index.add_all((one, read(one)) for one in ids if one not in changes.kept)
        index.arrange(ids)
        index.contents = dict(contents)
        index.save(folder / "index")
    logging.info("%s: %s.", folder, changes)
    return folder


def remove_from_local(folder: StrPath, ids: Sequence[str]) -> Path:
    """Takes images and their features out of an index, and writes it.

    Raises:
      InputError: no index, or one that lacks an image.
    """
    index = load_local(folder)
    unknown = sorted(set(ids) - set(index.ids))
    require(not unknown, "The index must hold the images that are taken out.", ids=unknown[:3])
    index.arrange([one for one in index.ids if one not in set(ids)])
    index.save(Path(folder) / "index")
    return Path(folder)


def is_local(folder: StrPath) -> bool:
    """Whether there is a folder such as `build_asmk` and `build_local` make."""
    return (Path(folder) / "manifest.json").is_file()


def load_local(folder: StrPath, *, fingerprint: str | None = None) -> LocalFeatureIndex:
    """Reads an index.

    Args:
      folder: what `build_asmk` or `build_local` wrote.
      fingerprint: of the features that will be searched with; None accepts any.

    Raises:
      InputError: no index, a build that was not finished, damage, or other features.
    """
    folder = Path(folder)
    facts = _read_manifest(folder)
    require(
        fingerprint is None or facts["fingerprint"] == fingerprint,
        "The index must be made of the features that it is searched with.",
        hint="Build the index from this store, or extract the queries with its config.",
        expected=fingerprint,
        fingerprint=facts["fingerprint"],
        path=folder,
    )
    require(
        (folder / "index").is_file(),
        "The index must be finished.",
        hint="Run the same build_index again: it goes on.",
        path=folder,
    )
    return LOCAL_KINDS[facts["kind"]].load(folder / "index")


def _begin(
    folder: Path, kind: str, fingerprint: str, settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Leaves the manifest of this build in the folder, whose other files are of the same build."""
    facts = {"kind": kind, "fingerprint": fingerprint, "settings": dict(settings)}
    if overwrite and is_local(folder):
        _remove(folder)
    if is_local(folder):
        require(
            _read_manifest(folder) == facts,
            "The index must not have been begun with other settings.",
            hint="Give --overwrite to replace it.",
            path=folder,
        )
        return
    require(
        not folder.exists() or (folder.is_dir() and all(map(is_temporary, folder.iterdir()))),
        "The index's folder must be new or empty.",
        path=folder,
    )
    write_json(folder / "manifest.json", facts)


def _remove(folder: Path) -> None:
    """Removes an index, its manifest last: killed before that, the folder is still an index's."""
    for one in folder.iterdir():
        if one.name != "manifest.json":
            one.unlink()
    shutil.rmtree(folder)


def _trained_codebook(folder: Path, ids: Sequence[str], read: Reader, num_words: int) -> np.ndarray:
    path, checkpoint = folder / "codebook", folder / "codebook.checkpoint"
    if not path.exists():

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, len(ids), _BLOCK):
                yield np.concatenate([read(one) for one in ids[start : start + _BLOCK]])

        words = train_codebook(blocks, num_words, checkpoint_path=checkpoint)
        save_codebook(path, words)
    # A build that was killed just before this has left it.
    checkpoint.unlink(missing_ok=True)
    return load_codebook(path)


def _sample(ids: Sequence[str], read: Reader) -> tuple[np.ndarray, int]:
    """Returns features of images drawn at random, and about how many there are in all.

    The same ones each time.
    """
    taken, total = [], 0
    for row in np.random.default_rng(0).permutation(len(ids)):
        taken.append(read(ids[row]))
        total += len(taken[-1])
        if total >= NUM_SAMPLES:
            break
    require(total > 0, "An index must be trained on at least one feature.", num_images=len(ids))
    return np.concatenate(taken), total * len(ids) // len(taken)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    require(path.is_file(), "The index must exist.", hint="Build it first: build_index.", path=path)
    facts = read_json(path, "The manifest", max_bytes=_MAX_MANIFEST_BYTES)
    if not (isinstance(facts, dict) and isinstance(facts.get("fingerprint"), str)):
        raise invalid("The manifest must be one of an index of local features.", path=path)
    require_choice("The index's kind", facts.get("kind"), LOCAL_KINDS)
    return facts
