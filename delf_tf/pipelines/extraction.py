"""Images to feature stores: extraction, the PCA of local descriptors, failed images."""

from __future__ import annotations

import csv
import functools
import io
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from delf_tf import artifacts
from delf_tf.checks import invalid, require
from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.runtime import Runtime
from delf_tf.retrieval.vectors import whitening
from delf_tf.types import ImageRef

try:
    import resource
except ImportError:  # Windows has none.
    resource = None  # type: ignore[assignment]

FAILED_IMAGES = "failed_images.csv"


class Collections(NamedTuple):
    """The images of a run: `queries` is None when the database queries itself.

    `database_dir` is the folder that the database's ids are paths below, if they are.
    """

    database: list[ImageRef]
    queries: list[ImageRef] | None
    labels: dict[str, str] | None
    database_dir: Path | None = None

    def by_id(self) -> tuple[dict[str, ImageRef], dict[str, ImageRef]]:
        """Returns the queries' images and the database's, by id."""
        database = {ref.id: ref for ref in self.database}
        queries = self.queries
        return (database if queries is None else {ref.id: ref for ref in queries}), database


class Stores(NamedTuple):
    """The features of a run: `queries` is None when the database queries itself."""

    database: FeatureStore
    queries: FeatureStore | None = None

    @property
    def asked(self) -> FeatureStore:
        """The features of the queries."""
        return self.database if self.queries is None else self.queries


class Sharding(NamedTuple):
    """Which part of the work is this process's; see engine.extract_to_store."""

    shard_index: int = 0
    num_shards: int = 1
    num_threads: int = 2
    batch_size: int = 1
    overwrite: bool = False


def read_collections(
    database_dir: artifacts.StrPath,
    query_dir: artifacts.StrPath | None = None,
    labels: artifacts.StrPath | None = None,
) -> Collections:
    """Lists the images of folders.

    Raises:
      InputError: a folder that is missing or empty, labels that cannot be read or name no image.
    """
    database = folder.list_images(database_dir)
    queries = folder.list_images(query_dir) if query_dir else None
    known = folder.read_labels(labels) if labels else None
    for refs in (database, queries):
        if refs is not None and known is not None:
            folder.places([ref.id for ref in refs], known)
    return Collections(database, queries, known, Path(database_dir))


def extract(
    runtime: Runtime,
    refs: Sequence[ImageRef],
    store_dir: artifacts.StrPath,
    sharding: Sharding = Sharding(),  # noqa: B008 - immutable
) -> Path:
    """Extracts `refs` with the experiment's model into a store and returns the store's path.

    A store that is there follows `refs`; see engine.extract_to_store.
    """
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    start = time.monotonic()
    path = engine.extract_to_store(
        refs,
        runtime.extractor(),
        store_dir,
        loader=runtime.loader(),
        **_store_options(runtime),
        **sharding._asdict(),
    )
    logging.info("Extracted into %s in %.1f s.", path, time.monotonic() - start)
    return path


def extract_by_beam(
    runtime: Runtime,
    images_dir: artifacts.StrPath,
    store_dir: artifacts.StrPath,
    beam_flags: Sequence[str],
    sharding: Sharding = Sharding(),  # noqa: B008 - immutable
) -> Path:
    """Extracts all shards of a folder by an Apache Beam pipeline; returns the store's path."""
    from delf_tf.extraction import beam  # noqa: PLC0415 - an extra

    options = _store_options(runtime)
    job = beam.ExtractionJob(
        list_images=functools.partial(folder.list_images, images_dir),
        make_extractor=functools.partial(_same_extractor, runtime, options["fingerprint"]),
        make_loader=runtime.loader,
        store_dir=store_dir,
        fingerprint=options.pop("fingerprint"),
        num_shards=sharding.num_shards,
        options={
            **options,
            "num_threads": sharding.num_threads,
            "batch_size": sharding.batch_size,
            "overwrite": sharding.overwrite,
        },
    )
    return beam.run(job, beam_flags)


def extract_collections(
    runtime: Runtime, collections: Collections, output_dir: Path, sharding: Sharding
) -> Stores:
    """Extracts the database, and the queries if they are others, below `output_dir`.

    The PCA of local descriptors is fitted before, if the config asks for one: on the distractors,
    where labels name them. Failed images are listed in failed_images.csv.

    Raises:
      InputError: not one image of a collection could be read.
    """
    if runtime.needs_local_pca:
        fit_local_pca(runtime, _distractors(collections), output_dir, overwrite=sharding.overwrite)
    stores = []
    for name, refs in (("database", collections.database), ("queries", collections.queries)):
        if refs is not None:
            stores.append(FeatureStore(extract(runtime, refs, output_dir / name, sharding)))
            log_summary(stores[-1])
    failed = [pair for store in stores for pair in store.failed().items()]
    listed = write_failures(failed, output_dir)
    for store in stores:
        require(
            bool(store.ids()),
            "At least one image of a collection must be readable.",
            hint=f"{listed} gives the reasons.",
            num_images=len(store),
            num_failed=len(store.failed()),
        )
    return Stores(*stores)


def fit_local_pca(
    runtime: Runtime, refs: Sequence[ImageRef], output_dir: Path, *, overwrite: bool = False
) -> None:
    """Gives the experiment the PCA of local descriptors that its config asks for.

    Args:
      runtime: the experiment.
      refs: images to fit on.
      output_dir: receives the fit; one that it holds is taken from there, also when images have
        come and gone, so that the features made before stay comparable.
      overwrite: fit anew, whatever output_dir holds.

    Raises:
      InputError: the images give fewer than two features; failed_images.csv is then written.
    """
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    settings = runtime.message.extraction.local_pca
    path = output_dir / f"local_pca-{runtime.fingerprint()}.npz"
    if overwrite or not path.is_file():
        descriptors, failed = engine.sample_descriptors(
            refs,
            runtime.extractor(use_global=False),
            runtime.loader(),
            max_num_samples=settings.max_num_samples,
        )
        if len(descriptors) < 2:
            listed = write_failures(failed.items(), output_dir)
            raise invalid(
                "Fitting the PCA needs at least two local features.",
                hint=f"{listed} lists the images that could not be read.",
                num_images=len(refs),
                num_failed=len(failed),
            )
        fitted = whitening.fit_pca(descriptors, dim=settings.dim or None, whiten=settings.whiten)
        whitening.save_whitening(path, fitted)
    runtime.local_pca = path


def write_failures(failures: Iterable[tuple[str, str]], output_dir: artifacts.StrPath) -> Path:
    """Writes (image, reason) pairs, also none, as CSV into `output_dir`; returns the path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "reason"])
    writer.writerows(failures)
    return artifacts.write_text(Path(output_dir) / FAILED_IMAGES, text.getvalue())


def log_summary(store: FeatureStore) -> None:
    """Logs the last lines of an extraction."""
    failed, size = len(store.failed()), store.bytes_per_image()
    logging.info(
        "%d images, %d failed, %.0f bytes an image (global %.0f, local %.0f).",
        len(store.ids()) + failed,
        failed,
        sum(size.values()),
        size["global"],
        size["local"],
    )
    if resource is not None:
        # Kilobytes, but on macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        logging.info("This process took %.2f GB of memory at its peak.", peak / 1e9)


def _distractors(collections: Collections) -> list[ImageRef]:
    """Returns the database's images without a place, or all of them if there are none."""
    refs = collections.database
    if collections.labels is None:
        return refs
    places = folder.places([ref.id for ref in refs], collections.labels)
    return [ref for ref, place in zip(refs, places) if not place] or refs


def _same_extractor(runtime: Runtime, fingerprint: str) -> Any:
    """Returns a worker's extractor, if it computes what the others' do."""
    require(
        runtime.store_fingerprint() == fingerprint,
        "All workers must have the same weights, and compute by the same backend and precision.",
        hint="Set --backend and --precision, which are this machine's where they are auto.",
        engine=runtime.engine,
    )
    return runtime.extractor()


def _store_options(runtime: Runtime) -> dict[str, Any]:
    """Returns what engine.extract_to_store needs to make or continue the store."""
    settings = runtime.message.extraction
    return {
        "fingerprint": runtime.store_fingerprint(),
        "local_codec": settings.local_codec,
        "block_size": settings.block_size,
    }
