"""Extraction as an Apache Beam transform: on Dataflow, Flink, Spark or several local processes.

Each element is a shard, extracted by the same `engine.extract_to_store` that one machine runs. The
store must lie where every worker can write, such as a network file system. A bundle that Beam
repeats continues where it broke off, and a shard that is run twice at once has one writer: the
other is refused, and its retry finds the shard complete.

Needs `pip install "delf_tf[beam]"`; nothing else of the package imports this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require
from delf_tf.extraction import engine
from delf_tf.extraction.engine import ImageLoader
from delf_tf.extraction.extractor import Extractor
from delf_tf.features.store import FeatureStore
from delf_tf.types import ImageRef

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise invalid(
        "Apache Beam must be installed.", hint='Run: pip install "delf_tf[beam]".'
    ) from error


@dataclasses.dataclass(frozen=True)
class ExtractionJob:
    """What a worker needs to extract a shard; it travels to the workers.

    Attributes:
      list_images: returns the whole collection, the same on every worker; called once a worker.
      make_extractor: returns the graph; called once a worker.
      make_loader: returns what decodes images.
      store_dir: the feature store.
      fingerprint: of everything that shapes the features.
      num_shards: of the store, and elements of the pipeline; several a worker balance the load.
      options: further arguments of engine.extract_to_store.
    """

    list_images: Callable[[], Sequence[ImageRef]]
    make_extractor: Callable[[], Extractor]
    make_loader: Callable[[], ImageLoader]
    store_dir: StrPath
    fingerprint: str
    num_shards: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class ExtractShards(beam.PTransform):
    """From a pipeline's start to a PCollection of (shard index, images of the shard)."""

    def __init__(self, job: ExtractionJob):
        """Keeps the job.

        Raises:
          InputError: num_shards below 1, or options that ask to overwrite.
        """
        super().__init__()
        require(job.num_shards >= 1, "num_shards must be 1 or more.", num_shards=job.num_shards)
        require(
            not job.options.get("overwrite"),
            "A job of many workers cannot overwrite.",
            hint="Delete the store's folder first.",
        )
        self._job = job

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """See the class."""
        return (
            pipeline
            | "Shards" >> beam.Create(range(self._job.num_shards))
            # Without it the shards would all go to the worker that made their numbers.
            | "Spread" >> beam.Reshuffle()
            | "Extract" >> beam.ParDo(_ExtractShard(self._job))
        )


class _ExtractShard(beam.DoFn):
    """Extracts the shards that come to one worker; tells each and the number of images in all."""

    def __init__(self, job: ExtractionJob):
        super().__init__()
        self._job = job

    def setup(self) -> None:
        """Builds, once a worker, what takes seconds."""
        self._refs = self._job.list_images()
        self._extractor = self._job.make_extractor()

    def process(self, shard: int) -> Iterator[tuple[int, int]]:
        """Extracts one shard."""
        engine.extract_to_store(
            self._refs,
            self._extractor,
            self._job.store_dir,
            loader=self._job.make_loader(),
            fingerprint=self._job.fingerprint,
            shard_index=shard,
            num_shards=self._job.num_shards,
            **self._job.options,
        )
        yield shard, len(self._refs)


def run(job: ExtractionJob, pipeline_args: Sequence[str] = ()) -> Path:
    """Runs a job to its end and returns the store's path.

    Args:
      job: what to extract.
      pipeline_args: Beam's own flags, such as "--runner=DataflowRunner".

    Raises:
      InputError: the store is not complete after the pipeline has ended.
    """
    with beam.Pipeline(options=PipelineOptions(list(pipeline_args))) as pipeline:
        pipeline | ExtractShards(job)
    store = FeatureStore(job.store_dir)
    require(
        store.all_ids() == tuple(ref.id for ref in job.list_images()),
        "The images must not come and go while they are extracted.",
        hint="Run the same command again: what was computed is kept.",
        path=store.path,
    )
    return store.path
