"""Extraction by an Apache Beam pipeline, a shard of the store a part; see `delf_tf.beam`.

Each shard is extracted by the same `engine.extract_to_store` that one machine runs. A shard that is
repeated goes on where it broke off; one that is run twice at once has one writer: the other is
refused, and its retry finds the shard complete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delf_tf import beam
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.extraction import engine
from delf_tf.extraction.loader import ImageLoader
from delf_tf.features import manifest
from delf_tf.features.store import FeatureStore
from delf_tf.types import ImageRef

if TYPE_CHECKING:
    from delf_tf.extraction.engine import AnyExtractor


@dataclasses.dataclass(frozen=True)
class ExtractionJob:
    """What a worker needs to extract a shard; it travels to the workers.

    Attributes:
      list_images: returns the whole collection, the same on every worker; called once a worker.
      make_extractor: returns the graph; called once a worker.
      make_loader: returns what decodes images.
      store_dir: the feature store.
      fingerprint: of everything that shapes the features.
      num_shards: of the store, and parts of the pipeline; several a worker balance the load.
      options: further arguments of engine.extract_to_store.
    """

    list_images: Callable[[], Sequence[ImageRef]]
    make_extractor: Callable[[], AnyExtractor]
    make_loader: Callable[[], ImageLoader]
    store_dir: StrPath
    fingerprint: str
    num_shards: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def open_worker(self) -> Callable[[int], Path]:
        """Builds, once a worker, what takes seconds; returns what extracts a shard."""
        refs, extractor = self.list_images(), self.make_extractor()

        def extract(shard: int) -> Path:
            return engine.extract_to_store(
                refs,
                extractor,
                self.store_dir,
                loader=self.make_loader(),
                fingerprint=self.fingerprint,
                shard_index=shard,
                num_shards=self.num_shards,
                **self.options,
            )

        return extract

    def count_left(self) -> int:
        """Returns how many blocks of the store are not there."""
        if not (Path(self.store_dir) / manifest.NAME).is_file():
            return self.num_shards
        return FeatureStore(self.store_dir, allow_incomplete=True).num_missing_blocks


def run(job: ExtractionJob, pipeline_args: Sequence[str] = ()) -> Path:
    """Runs a job to its end and returns the store's path.

    Args:
      job: what to extract.
      pipeline_args: Beam's own flags, such as "--runner=FlinkRunner".

    Raises:
      InputError: num_shards below 1, options that ask to overwrite, a pipeline that breaks off, or
        a store that is not complete at its end.
    """
    require(job.num_shards >= 1, "num_shards must be 1 or more.", num_shards=job.num_shards)
    require(
        not job.options.get("overwrite"),
        "A job of many workers cannot overwrite.",
        hint="Delete the store's folder first.",
    )
    beam.run(job.open_worker, range(job.num_shards), pipeline_args, job.count_left)
    store = FeatureStore(job.store_dir)
    require(
        store.all_ids() == tuple(ref.id for ref in job.list_images()),
        "A store must hold the images of its folder in the end; some came or went meanwhile, or "
        "not all shards of the change are done.",
        hint="Run the same command again: what was computed is kept.",
        path=store.path,
    )
    return store.path
