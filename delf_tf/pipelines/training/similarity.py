"""Trains a learned similarity of local features: pairs of stored features to weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from delf_tf import artifacts, config
from delf_tf.features.store import FeatureStore
from delf_tf.models.similarity import create
from delf_tf.pipelines.training import settings
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.training import pairs, trainer
from delf_tf.training import strategy as strategies

# Pairs of images are drawn at random; this many images stay decoded.
_CACHED_IMAGES = 2048


def train_similarity(
    message: experiment_pb2.Experiment,
    ranking_path: str | Path,
    store: FeatureStore,
    labels: Mapping[str, str],
    output_dir: str | Path,
    *,
    strategy: str = "default",
) -> Path:
    """Trains ELViS or AMES on pairs of images; a run in `output_dir` is resumed.

    Args:
      message: its model is "elvis", "ames" or "ames_student"; its section training gives optimizer,
        schedule, run, input.batch_size, in pairs, and in `losses` a teacher, if there is one.
      ranking_path: of the store's images searched among themselves, for hard negatives.
      store: local features.
      labels: place by image.
      output_dir: of the run: checkpoints, metrics, weights.
      strategy: see `train.train`.

    Returns:
      The path of the weights (.npz), for rerank.learned.weights.

    Raises:
      UsageError: a config without a training section.
      InputError: images without local features, no image with a positive and a negative.
    """
    settings.require_section(message)
    options = message.training
    anchors = pairs.find_anchors(ranking_file.load_ranking(ranking_path), labels)
    dim = store.read_local(anchors[0].image).dim
    settings.set_precision(options.run)
    distribution = strategies.create_strategy(strategy)
    with distribution.scope():
        model = create.create(message.model.name, dim, options.run.seed)
        taught = options.losses.distillation_weight
        teacher = create.load(options.losses.teacher.weights) if taught else None
        objective = pairs.PairObjective(model, teacher, taught)
        optimizer = settings.create_optimizer(options.optimizer, objective.variables)
    read = functools.lru_cache(_CACHED_IMAGES)(store.read_local)
    pipeline = pairs.PairPipeline(
        anchors,
        read,
        options.input.batch_size,
        dim,
        *create.SIMILARITIES[message.model.name].num_features,
        seed=options.run.seed,
    )
    return trainer.Trainer(
        objective,
        optimizer,
        pipeline,
        output_dir,
        **settings.pace(options),
        strategy=distribution,
        fingerprint=config.fingerprint(
            message,
            store.identity(),
            artifacts.file_fingerprint(ranking_path),
            json.dumps(sorted(labels.items())),
        ),
        provenance={"training_set": store.identity(), "num_training_images": len(anchors)},
    ).run()
