"""serve: a page where a picture is dropped and found again, by one stage and two; and a JSON API.

delf_tf serve --index=OUT                          (a folder that retrieve made)
delf_tf serve --index=INDEX --database_store=STORE --images_dir=DIR --config=CONFIG [--weights=PATH]

The page is at http://127.0.0.1:8000 and answers this machine alone unless --host says otherwise.
What is uploaded is searched with and forgotten; nothing is written. The JSON API describes itself
at /api and /openapi.json. Needs pip install 'delf_tf[serve]'.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags, logging

from delf_tf import config
from delf_tf.checks import UsageError, require
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import local_search
from delf_tf.retrieval.second_stage import rerank as reranking
from delf_tf.retrieval.vectors import first_stage
from delf_tf.tools import (
    build_index,
    command_line,
    experiment,
    extract,
    local_indexes,
    pipeline,
    rerank,
    retrieval_folder,
    search,
    settings,
)
from delf_tf.types import GlobalDescriptors, ImageRef, LocalFeatures, Ranking, Verification

if TYPE_CHECKING:
    from fastapi import FastAPI

    from delf_tf.serving.service import RetrievalService, Search

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS)
flags.DEFINE_string(
    "index", None, "a folder that retrieve made, or what build_index made", flag_values=FLAGS
)
flags.DEFINE_string("database_store", None, "features of the database", flag_values=FLAGS)
flags.DEFINE_string("images_dir", None, "folder of the database's images", flag_values=FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "address to listen at", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "port", 8000, "port to listen at; 0: any that is free", least=0, most=65535
)
flags.DEFINE_list(
    "allowed_hosts",
    [],
    "further names that browsers may call this server; * for any",
    flag_values=FLAGS,
)
command_line.define_count(FLAGS, "num_threads", 2, "threads that verify pairs")
command_line.define_count(FLAGS, "max_upload_mb", 20, "largest picture, 10^6 bytes")
command_line.define_count(FLAGS, "max_queries", 4, "queries at once; more get 429")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Results beyond these are neither verified nor shown.
_NUM_CANDIDATES = 100
# The name of a query that is no image of the collection.
_UPLOAD = "\0upload"


class Source(NamedTuple):
    """What is served: an experiment, the features, the images, and an index if there is one."""

    message: experiment_pb2.Experiment
    store: FeatureStore
    images_dir: Path
    index: str | None


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    source = read_source(flag_values)
    app = create_app(source, flag_values)
    from delf_tf.serving import server  # noqa: PLC0415 - an extra

    server.run(app, flag_values.host, flag_values.port, on_ready=command_line.write_result)


def read_source(flag_values: flags.FlagValues) -> Source:
    """Opens what the flags name.

    Raises:
      UsageError: flags that are missing, or given beside a folder that tells them itself.
      InputError: features made by another model, images that are not there.
    """
    (path,) = command_line.required(flag_values, "index")
    if retrieval_folder.is_one(path):
        given = [n for n in ("database_store", "images_dir", "config") if flag_values[n].value]
        if given:
            raise UsageError(f"--{given[0]} must be left out: the folder of retrieve tells it.")
        message, store, images_dir = retrieval_folder.read(path)
        for override in flag_values["set"].value:
            config.apply_override(message, override)
        if flag_values.weights:
            message.model.weights = flag_values.weights
        return Source(message, FeatureStore(store), images_dir, None)
    store, images_dir = command_line.required(flag_values, "database_store", "images_dir")
    message = experiment.from_flags(flag_values)
    return Source(message, FeatureStore(store), Path(images_dir), path)


def create_app(source: Source, flag_values: flags.FlagValues) -> FastAPI:
    """Makes the application with the flags' limits.

    Raises:
      UsageError: the extra `serve` is not installed.
    """
    try:
        from delf_tf.serving import app  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"serve needs: pip install 'delf_tf[serve]' ({error}).") from None
    host = flag_values.host
    # Who listens to everyone cannot know by which names.
    everyone = host in ("0.0.0.0", "::")
    own = ("*",) if everyone and not flag_values.allowed_hosts else (host,)
    return app.create_app(
        create_service(source, num_threads=flag_values.num_threads),
        name=source.images_dir.name,
        allowed_hosts=(*_LOOPBACK, *own, *flag_values.allowed_hosts),
        max_upload_bytes=flag_values.max_upload_mb * 1_000_000,
        max_pixels=min(source.message.extraction.max_image_pixels, 50_000_000),
        max_queries=flag_values.max_queries,
    )


def create_service(source: Source, *, num_threads: int = 2) -> RetrievalService:
    """Loads the model and the index.

    Raises:
      InputError: features made by another model, or images that are not where they were.
    """
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load
    from delf_tf.serving.service import RetrievalService  # noqa: PLC0415

    message, store = source.message, source.store
    pipeline.check_stages(message)
    local_pca = _local_pca(source)
    made_by = extract.store_fingerprint(message, local_pca)
    require(
        store.fingerprint == made_by,
        "The collection's features must be made as those of the queries will be.",
        hint="Serve with the config and weights that the store was extracted with.",
        store=store.fingerprint,
        queries=made_by,
    )
    extractor = experiment.create_extractor(message, local_pca=local_pca)
    loader = experiment.create_loader(message)

    def extract_query(image: np.ndarray) -> ImageFeatures:
        return engine.extract_image(extractor, *loader.limit(image))

    refs = [ImageRef(one, source.images_dir / one) for one in store.ids()]
    missing = [ref.id for ref in refs if not ref.path.is_file()]
    if missing:
        logging.warning("%d images are not in %s any more.", len(missing), source.images_dir)
        require(
            len(missing) < len(refs),
            "The images must be where they were.",
            hint="Give their folder: --database_store=OUT/database --images_dir=DIR.",
            images_dir=source.images_dir,
            missing=missing[:3],
        )
    two_stages = message.HasField("rerank")
    return RetrievalService(
        refs,
        extract_query,
        _searcher(source),
        rerank=_reranker(message, store, num_threads) if two_stages else None,
        read_local=store.read_local if two_stages else None,
    )


def _local_pca(source: Source) -> Path | None:
    """Returns the PCA that the store's local features went through, which retrieve keeps beside."""
    if not experiment.needs_local_pca(source.message):
        return None
    found = sorted(Path(source.store.path).parent.glob("local_pca-*.npz"))
    require(
        len(found) == 1,
        "The PCA of the local features must be beside the store, or named by the config.",
        hint="Set extraction.local_pca.path.",
        found=found,
    )
    return found[0]


def _searcher(source: Source) -> Search:
    message, store = source.message, source.store
    if local_indexes.is_type(message.index.type) or (
        source.index and local_search.is_local(source.index)
    ):
        return _local_searcher(source)
    if source.index:
        made = search.load_index(message, source.index, store, fingerprint=store.fingerprint)
    else:
        made = build_index.build(message, store)

    def rank(features: ImageFeatures, *, name: str | None) -> Ranking:
        query = GlobalDescriptors((name or _UPLOAD,), features.global_descriptor[None])
        return first_stage.search_first_stage(
            made,
            query,
            _NUM_CANDIDATES,
            exclude_self=name is not None,
            **settings.search_arguments(message),
        )

    return rank


def _local_searcher(source: Source) -> Search:
    message, store = source.message, source.store
    if source.index:
        opened = local_search.load_local(source.index, fingerprint=store.fingerprint)
    else:
        with tempfile.TemporaryDirectory(prefix="delf_tf-") as folder:
            opened = local_search.load_local(local_indexes.build(message, store, folder))

    def rank(features: ImageFeatures, *, name: str | None) -> Ranking:
        return local_search.search_local(
            opened,
            [name or _UPLOAD],
            lambda _: features.local.descriptors,
            _NUM_CANDIDATES,
            exclude_self=name is not None,
        )

    return rank


def _reranker(
    message: experiment_pb2.Experiment, store: FeatureStore, num_threads: int
) -> Callable[[Ranking, LocalFeatures], tuple[Ranking, Mapping[int, Verification]]]:
    read = rerank.cached_reader(store)
    arguments = rerank.rerank_arguments(message)
    arguments["num_candidates"] = min(arguments["num_candidates"], _NUM_CANDIDATES)

    def verify(
        ranking: Ranking, local: LocalFeatures
    ) -> tuple[Ranking, Mapping[int, Verification]]:
        reranked, found = reranking.rerank(
            ranking, lambda _: local, read, num_threads=num_threads, **arguments
        )
        return reranked, found[0]

    return verify


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
