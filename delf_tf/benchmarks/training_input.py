"""Times the training input: images a second from TFRecords to batches, beside the original's way.

All contenders read the same records, in turn (interleaved), each with a fresh iterator that is read
to its end, so that nothing is made ahead in another's time; figures are medians over rounds, after
one that warms up. CPU seconds are given too, which other processes disturb less: the original
decodes in one thread, so its images a second lag behind by more than its CPU seconds show wherever
there are processors to spare.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from delf_tf.benchmarks import original
from delf_tf.benchmarks.measuring import Timings
from delf_tf.checks import require, require_choice
from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema
from delf_tf.synthetic import benchmark_pictures

_NUM_SHARDS, _NUM_PICTURES = 8, 64
_COLOUR = (("brightness", 0.3, 1.0), ("contrast", 0.3, 1.0))
_FLIP = (("flip", 1.0, 0.5),)

Maker = Callable[[schema.Records, int, int], tf.data.Dataset]


def _original(num_parallel_calls: int | None) -> Maker:
    def make(records: schema.Records, batch_size: int, image_size: int) -> tf.data.Dataset:
        return original.dataset(records.paths, batch_size, image_size, num_parallel_calls)

    return make


def _ours(distortions: tuple[tuple[str, float, float], ...]) -> Maker:
    def make(records: schema.Records, batch_size: int, image_size: int) -> tf.data.Dataset:
        stream = RecordStream(records.paths, records.counts, shuffle_window=256)
        pipeline = InputPipeline(stream, batch_size, image_size, distortions=distortions)
        return pipeline.dataset()

    return make


ORIGINAL = "original"
# The original's way; the same with its map in parallel, which it has not; ours doing the same
# work (no distortions), with a flip as DELG and DOLG train, and with colours too.
CONTENDERS: dict[str, Maker] = {
    ORIGINAL: _original(None),
    "original, parallel map": _original(tf.data.AUTOTUNE),
    "ours": _ours(()),
    "ours + flip": _ours(_FLIP),
    "ours + flip + colour": _ours(_FLIP + _COLOUR),
}


def run(
    *,
    file_pattern: str | None = None,
    image_sizes: Sequence[int] = (321, 512),
    contenders: Sequence[str] = tuple(CONTENDERS),
    height: int = 600,
    width: int = 800,
    num_images: int = 2048,
    batch_size: int = 32,
    rounds: int = 5,
) -> dict[str, Any]:
    """Runs the benchmark.

    Args:
      file_pattern: shards to read, see `schema.open_records`; None for generated ones.
      image_sizes: sides of the pictures made, pixels: DELG's of the original code, DOLG's.
      contenders: keys of CONTENDERS.
      height: of generated pictures, pixels; GLDv2's are mostly 800 x 600.
      width: likewise.
      num_images: images a round, a multiple of `batch_size`; this many records are generated.
        Starting a pipeline, some 0.1 s, counts too: few images would measure that.
      batch_size: images.
      rounds: timed rounds.

    Returns:
      JSON-able: "records" (where from, how many, mean bytes) and "rows": a size and
      contender each, see Timings.row.

    Raises:
      InputError: a name or a number out of range.
    """
    for name in contenders:
        require_choice("contenders", name, CONTENDERS)
    require(min(rounds, batch_size, *image_sizes) >= 1, "Counts and sizes must be positive.")
    require(
        num_images >= batch_size and num_images % batch_size == 0,
        "num_images must be a positive multiple of batch_size.",
        num_images=num_images,
        batch_size=batch_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        if file_pattern is None:
            _write_records(Path(folder), num_images, height, width)
        records = schema.open_records(file_pattern or folder)
        rows = []
        for image_size in image_sizes:
            datasets = {
                name: CONTENDERS[name](records, batch_size, image_size).take(
                    num_images // batch_size
                )
                for name in contenders
            }
            rows += [
                {"image_size": image_size, **row} for row in _measure(datasets, num_images, rounds)
            ]
        num_bytes = sum(tf.io.gfile.stat(path).length for path in records.paths)
    return {
        "records": {
            "file_pattern": file_pattern or f"generated, {width} x {height}",
            "num_records": records.num_records,
            "mean_bytes": round(num_bytes / records.num_records),
        },
        "num_images": num_images,
        "batch_size": batch_size,
        "rounds": rounds,
        "rows": rows,
    }


def _write_records(folder: Path, num: int, height: int, width: int) -> None:
    """Writes shards in which a few pictures come again and again."""
    pictures = [
        benchmark_pictures.encode_picture(seed, height, width)
        for seed in range(min(num, _NUM_PICTURES))
    ]
    for shard in range(_NUM_SHARDS):
        with (folder / schema.shard_name("train", shard, _NUM_SHARDS)).open("wb") as file:
            for number in range(shard, num, _NUM_SHARDS):
                encoded = pictures[number % len(pictures)]
                example = schema.make_example(f"{number}", encoded, height, width, number)
                record_files.write_record(file, example)


def _measure(
    datasets: dict[str, tf.data.Dataset], num_images: int, rounds: int
) -> list[dict[str, Any]]:
    timings = Timings(datasets, ORIGINAL)
    for number in range(rounds + 1):
        for name, dataset in datasets.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            iterator = iter(dataset)
            for _ in iterator:
                pass
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
            # Outside the clock: a pipeline that ends waits for its tuner, which sleeps 10, 20, 40,
            # … ms, to wake up.
            del iterator
            # The first round traces graphs and fills caches.
            if number:
                timings.add(name, seconds / num_images, cpu_seconds / num_images)
    return [timings.row(name) for name in datasets]
