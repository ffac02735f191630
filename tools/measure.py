"""What a stage costs: extraction seconds measured on a few images, bytes read off the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.tools import experiment, local_indexes
from delf_tf.tools.score import TWO_STAGE
from delf_tf.types import ImageRef

_NUM_TIMED = 5


def stage_costs(
    message: experiment_pb2.Experiment,
    refs: Sequence[ImageRef],
    store: FeatureStore,
    local_pca: Path | None,
    seconds_per_query: dict[str, float],
) -> dict[str, dict[str, float]]:
    """Returns seconds and bytes an image and seconds a query for each stage that ran.

    A single stage needs global descriptors alone, so its extraction is timed without local ones;
    one that searches local features needs these alone.
    Images are timed from file to features, warm, the stages interleaved; medians.
    """
    size = store.bytes_per_image()
    readable = set(store.ids())
    timed = [ref for ref in refs if ref.id in readable][:: max(1, len(readable) // _NUM_TIMED)]
    by_local = local_indexes.is_type(message.index.type)
    needs_local = {stage: by_local or stage == TWO_STAGE for stage in seconds_per_query}
    size["global"] = 0.0 if by_local else size["global"]
    seconds = _time_extraction(message, timed[:_NUM_TIMED], local_pca, needs_local)
    return {
        stage: {
            "seconds_per_image": seconds[stage],
            "bytes_per_image": size["global"] + (size["local"] if needs_local[stage] else 0.0),
            "seconds_per_query": seconds_per_query[stage],
        }
        for stage in seconds_per_query
    }


def _time_extraction(
    message: experiment_pb2.Experiment,
    refs: Sequence[ImageRef],
    local_pca: Path | None,
    needs_local: dict[str, bool],
) -> dict[str, float]:
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    loader = experiment.create_loader(message)
    use_global = False if local_indexes.is_type(message.index.type) else None
    extractors = {
        stage: experiment.create_extractor(
            message, local_pca=local_pca, use_global=use_global, use_local=local
        )
        for stage, local in needs_local.items()
    }
    times: dict[str, list[float]] = {stage: [] for stage in extractors}
    for ref in refs:
        for stage, extractor in extractors.items():
            engine.extract_image(extractor, *loader.load(ref))
            start = time.perf_counter()
            engine.extract_image(extractor, *loader.load(ref))
            times[stage].append(time.perf_counter() - start)
    return {stage: float(np.median(values)) for stage, values in times.items()}
