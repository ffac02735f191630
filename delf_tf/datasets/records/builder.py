"""Writes TFRecord shards of labelled images: in parallel, resumable, with equal bytes each time.

A shard is written whole under its final name, then a note beside it says so; a killed run makes
again only the shards without a note. Which image lands where depends on the listing and the seed
alone, so any number of processes and of interruptions ends with identical files.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, JpegImagePlugin

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.datasets import images as image_files
from delf_tf.datasets.input.training_images import TrainingImages, read_relabeling, write_relabeling
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema
from delf_tf.progress import Progress

FORMAT_VERSION = 1
JPEG_QUALITY = 95
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True, eq=False)
class _ShardTask:
    images: TrainingImages
    path: Path
    note: Path
    max_side_px: int


def build_records(
    images: TrainingImages,
    output_dir: artifacts.StrPath,
    *,
    split: str = "train",
    num_shards: int = 128,
    num_processes: int = 1,
    beam_flags: Sequence[str] = (),
    seed: int = 0,
    max_side_px: int = 0,
    max_failed_fraction: float = 0.01,
    overwrite: bool = False,
) -> Path:
    """Writes `split-NNNNN-of-NNNNN`, `records-SPLIT.json`, `relabeling.csv`, `failed_images.csv`.

    A file that is an upright RGB or grey JPEG is stored as it is; any other image is stored upright
    as JPEG of quality 95. Unreadable and missing images are listed and left out.

    Args:
      images: what to store; they are shuffled over all shards.
      output_dir: may hold other splits.
      split: train, validation, index, test, …
      num_shards: at most the number of images.
      num_processes: workers; 1 works in this process.
      beam_flags: Apache Beam's own flags, such as "--runner=FlinkRunner", to build the shards by
        its workers instead; see `delf_tf.beam`.
      seed: of the shuffling.
      max_side_px: images with a longer side are shrunk to it; 0 keeps them.
      max_failed_fraction: of the images that may fail before the result is refused.
      overwrite: whether another build of this split may be replaced.

    Returns:
      The manifest's path.

    Raises:
      InputError: another build is there, or too many images failed (all is kept for a look).
    """
    _check_arguments(images, split, num_shards, num_processes)
    folder = Path(output_dir)
    fingerprint = _fingerprint(images, split, num_shards, seed, max_side_px)
    notes = folder / f".records-{split}"
    manifest = schema.manifest_path(folder, split)
    if _already_built(manifest, notes, fingerprint, split, overwrite):
        logging.info("%s is complete; nothing to do.", manifest)
    else:
        if images.labels is not None:
            _write_relabeling(folder / "relabeling.csv", images.class_names, overwrite)
        tasks = _plan(
            images,
            folder,
            notes,
            split=split,
            num_shards=num_shards,
            seed=seed,
            max_side_px=max_side_px,
        )
        _run(tasks, num_processes, beam_flags)
        _write_manifest(manifest, images, tasks, fingerprint, split)
        shutil.rmtree(notes)
    _write_failed(folder)
    _require_few_failures(manifest, len(images), max_failed_fraction)
    return manifest


def encode_image(path: artifacts.StrPath, max_side_px: int = 0) -> tuple[bytes, int, int]:
    """Returns what a record stores of an image: JPEG bytes, height and width.

    Raises:
      ImageError: the image cannot be read.
    """
    pixels = image_files.read_image(path)
    height, width = pixels.shape[:2]
    shrink = max_side_px / max(height, width) if max_side_px else 1.0
    if shrink >= 1 and _plain_jpeg(Path(path)):
        return Path(path).read_bytes(), height, width
    picture = Image.fromarray(pixels)
    if shrink < 1:
        height, width = (max(1, round(side * shrink)) for side in (height, width))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return encoded.getvalue(), height, width


def _plain_jpeg(path: Path) -> bool:
    """Whether any JPEG decoder gives the pixels of read_image: no EXIF turn, no CMYK."""
    with path.open("rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return False
        file.seek(0)
        opened = JpegImagePlugin.JpegImageFile(file)
        return opened.mode in ("RGB", "L") and opened.getexif().get(_ORIENTATION, 1) == 1


def _check_arguments(
    images: TrainingImages, split: str, num_shards: int, num_processes: int
) -> None:
    require(
        split.replace("_", "").isalnum(), "split must be of letters, digits and _.", split=split
    )
    require(
        1 <= num_shards <= min(len(images), 99999),
        "num_shards must lie in 1..the number of images.",
        num_shards=num_shards,
        num_images=len(images),
    )
    require(num_processes >= 1, "num_processes must be at least 1.", num_processes=num_processes)


def _fingerprint(
    images: TrainingImages, split: str, num_shards: int, seed: int, max_side_px: int
) -> str:
    labels = b"" if images.labels is None else images.labels.tobytes()
    options = json.dumps([FORMAT_VERSION, split, num_shards, seed, max_side_px, images.layout])
    return artifacts.fingerprint("\n".join(images.ids), labels, options)


def _already_built(
    manifest: Path, notes: Path, fingerprint: str, split: str, overwrite: bool
) -> bool:
    """Whether this very build is complete; begins or resumes it if not."""
    plan = notes / "plan.json"
    for path in (manifest, plan):
        if not path.is_file():
            continue
        found = artifacts.read_json(path, "The notes of a build", hint="Delete the file.")
        if isinstance(found, dict) and found.get("fingerprint") == fingerprint:
            if path == manifest:
                return True
        elif overwrite:
            shutil.rmtree(notes, ignore_errors=True)
            manifest.unlink(missing_ok=True)
            for shard in manifest.parent.glob(f"{split}-[0-9]*-of-[0-9]*"):
                shard.unlink()
        else:
            raise invalid(
                "Another build of this split must not be replaced silently.",
                hint="Choose another --output_dir, or replace it with --overwrite.",
                found=str(path),
            )
    artifacts.write_json(plan, {"fingerprint": fingerprint})
    return False


def _write_relabeling(path: Path, class_names: Sequence[str], overwrite: bool) -> None:
    """Writes the classes' names; two splits of one folder must agree on them."""
    if path.is_file() and not overwrite:
        require(
            read_relabeling(path) == tuple(class_names),
            "All splits in a folder must number the same classes alike.",
            hint="Choose another --output_dir, or replace it with --overwrite.",
            found=str(path),
        )
    write_relabeling(path, class_names)


def _plan(
    images: TrainingImages,
    folder: Path,
    notes: Path,
    *,
    split: str,
    num_shards: int,
    seed: int,
    max_side_px: int,
) -> list[_ShardTask]:
    order = np.random.RandomState(seed).permutation(len(images))
    tasks = []
    for shard, rows in enumerate(np.array_split(order, num_shards)):
        path = folder / schema.shard_name(split, shard, num_shards)
        tasks.append(_ShardTask(images.take(rows), path, notes / f"{shard:05d}.json", max_side_px))
    return tasks


def _missing(tasks: Sequence[_ShardTask]) -> list[_ShardTask]:
    return [task for task in tasks if not (task.note.is_file() and task.path.is_file())]


def _run(tasks: Sequence[_ShardTask], num_processes: int, beam_flags: Sequence[str]) -> None:
    missing = _missing(tasks)
    if beam_flags and missing:
        from delf_tf import beam  # noqa: PLC0415 - an extra

        beam.run(_open_worker, missing, beam_flags, lambda: len(_missing(tasks)))
        return
    total = sum(len(task.images) for task in tasks)
    done = total - sum(len(task.images) for task in missing)
    with Progress(total, "images", "building records", done=done) as progress:
        for num_done, num_failed in _finished(missing, num_processes):
            progress.update(num_done, failed=num_failed)


def _finished(tasks: Sequence[_ShardTask], num_processes: int) -> Iterator[tuple[int, int]]:
    if num_processes == 1 or len(tasks) < 2:
        yield from map(_build_shard, tasks)
        return
    # TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(num_processes, len(tasks)), mp_context=context
    ) as pool:
        pending = [pool.submit(_build_shard, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(pending):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise invalid(
                "Every worker process must live to the end; one was killed (out of memory?).",
                hint="Run the same command again: it goes on where it stopped.",
                num_processes=num_processes,
            ) from None
        finally:
            for future in pending:
                future.cancel()


def _open_worker() -> Callable[[_ShardTask], tuple[int, int]]:
    return _build_shard


def _build_shard(task: _ShardTask) -> tuple[int, int]:
    """Writes one shard and its note; returns how many images it was given and how many failed."""
    failed: list[tuple[str, str]] = []
    num_bytes = 0
    with artifacts.atomic_write(task.path) as file:
        for row, image_id in enumerate(task.images.ids):
            try:
                encoded, height, width = encode_image(task.images.path(image_id), task.max_side_px)
            except InputError as error:
                failed.append((image_id, str(error)))
                continue
            label = None if task.images.labels is None else int(task.images.labels[row])
            example = schema.make_example(image_id, encoded, height, width, label)
            record_files.write_record(file, example)
        num_bytes = file.tell()
    note = {
        "name": task.path.name,
        "num_records": len(task.images) - len(failed),
        "num_bytes": num_bytes,
        "failed": failed,
    }
    artifacts.write_json(task.note, note)
    return len(task.images), len(failed)


def _write_manifest(
    manifest: Path,
    images: TrainingImages,
    tasks: Sequence[_ShardTask],
    fingerprint: str,
    split: str,
) -> None:
    notes = [json.loads(task.note.read_text(encoding="utf-8")) for task in tasks]
    failed = [pair for note in notes for pair in note.pop("failed")]
    content: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "split": split,
        "fingerprint": fingerprint,
        "num_records": sum(note["num_records"] for note in notes),
        "num_classes": images.num_classes,
        "source": dict(images.source),
        "shards": notes,
        "failed": sorted(failed),
    }
    artifacts.write_json(manifest, content)


def _write_failed(folder: Path) -> None:
    """Lists the failed images of all the folder's splits."""
    lines = ["image,split,reason"]
    for manifest in sorted(folder.glob("records-*.json")):
        content = schema.read_manifest(manifest)
        for image_id, reason in content["failed"]:
            quoted = ['"' + str(text).replace('"', '""') + '"' for text in (image_id, reason)]
            lines.append(f"{quoted[0]},{content['split']},{quoted[1]}")
    artifacts.write_text(folder / "failed_images.csv", "\n".join(lines) + "\n")


def _require_few_failures(manifest: Path, num_images: int, max_failed_fraction: float) -> None:
    num_failed = len(schema.read_manifest(manifest)["failed"])
    require(
        num_failed <= max_failed_fraction * num_images,
        "At most max_failed_fraction of the images may fail.",
        hint=f"See {manifest.parent / 'failed_images.csv'}; the records of the others are kept.",
        num_failed=num_failed,
        num_images=num_images,
        max_failed_fraction=max_failed_fraction,
    )
