"""Trains a network as a config says: TFRecords to weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging
from google.protobuf import text_format

from delf_tf import config
from delf_tf.checks import require
from delf_tf.datasets import folder, sfm120k
from delf_tf.datasets.input import pipeline as input_pipeline
from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream
from delf_tf.datasets.records import lookup as record_lookup
from delf_tf.datasets.records import schema
from delf_tf.datasets.records.schema import Records
from delf_tf.models import create
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.zoo import checkpoint
from delf_tf.pipelines.training import settings
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.vectors.index import search_all
from delf_tf.training import strategy as strategies
from delf_tf.training import throughput, trainer, tuple_stream
from delf_tf.training.evaluation import RetrievalEvaluation
from delf_tf.training.objective import LOSSES, Objective
from delf_tf.training.tuples import TupleMiner

# Of foreign records, those whose labels are read to count the classes.
_NUM_SAMPLED_RECORDS = 4096


def train(
    message: experiment_pb2.Experiment,
    train_file_pattern: str,
    output_dir: str | Path,
    *,
    strategy: str = "default",
    peak_tflops: float | None = None,
) -> Path:
    """Trains the experiment's model; a run in `output_dir` is resumed.

    Args:
      message: the experiment.
      train_file_pattern: TFRecord shards: a glob, several, or a folder.
      output_dir: of the run: checkpoints, metrics, weights.
      strategy: "default", "mirrored", "multi_worker", "tpu" or "tpu=NAME".
      peak_tflops: of all devices together, to which the rate is compared; 0 measures it, if there
        is one device; None compares nothing.

    Returns:
      The path of the weights (.npz).

    Raises:
      UsageError: a config without a training section.
      InputError: the data is missing or damaged, or its classes disagree with the config's.
    """
    settings.require_section(message)
    peak_flops = (peak_tflops or 0) * 1e12
    # Of several devices, what one does is not the sum.
    if peak_tflops == 0 and strategy == "default":
        peak_flops = throughput.measured_peak_flops()
    made = _create_trainer(message, train_file_pattern, Path(output_dir), strategy, peak_flops)
    path = made.run()
    logging.info("%d steps done.", made.step)
    return path


def _create_trainer(
    message: experiment_pb2.Experiment,
    train_file_pattern: str,
    output_dir: Path,
    strategy: str,
    peak_flops: float,
) -> trainer.Trainer:
    options = message.training
    distribution = strategies.create_strategy(strategy)
    records = schema.open_records(train_file_pattern, check=options.input.check_records)
    records = input_pipeline.repaired(
        records, str(output_dir / "repaired"), options.input.max_bad_records
    )
    num_classes = _num_classes(options, records)
    with distribution.scope():
        model = _create_model(message)
        teacher = _create_teacher(options.losses)
        if distribution.num_replicas_in_sync > 1:
            strategies.synchronize_batch_norm(model)
        objective = _create_objective(options, model, num_classes, teacher)
        trained = objective.trainable_variables(tuple(options.optimizer.trainable))
        optimizer = settings.create_optimizer(options.optimizer, trained)
    fingerprint = _fingerprint(message, records)
    pipeline = _create_pipeline(options, records, num_classes)
    if options.input.HasField("tuples"):
        stream = _create_tuple_stream(options, records, model, output_dir, fingerprint)
        pipeline = dataclasses.replace(pipeline, stream=stream)
    return trainer.Trainer(
        objective,
        optimizer,
        pipeline,
        output_dir,
        **settings.pace(options),
        strategy=distribution,
        jit_compile=options.run.jit_compile,
        evaluate=_create_evaluation(options, model),
        fingerprint=fingerprint,
        provenance=_provenance(message, records),
        peak_flops=peak_flops,
    )


def _create_pipeline(
    options: experiment_pb2.TrainingConfig, records: Records, num_classes: int
) -> InputPipeline:
    inputs = options.input
    crop_options: dict[str, Any] = {}
    if inputs.crop == "random_resized":
        crop_options["min_area"] = inputs.min_crop_area
    elif inputs.crop == "fixed":
        crop_options["resize_to"] = inputs.resize_to
    stream = RecordStream(
        records.paths, records.counts, options.run.seed, shuffle_window=inputs.shuffle_window
    )
    distortions = [(one.name, one.strength, one.probability) for one in inputs.distortions]
    return InputPipeline(
        stream,
        inputs.batch_size,
        inputs.image_size,
        crop=inputs.crop,
        crop_options=tuple(crop_options.items()),
        distortions=tuple(distortions),
        rescale_sides=tuple(inputs.rescale_sides),
        num_classes=num_classes,
        views=inputs.views,
        seed=options.run.seed,
        deterministic=inputs.deterministic,
    )


def _create_model(message: experiment_pb2.Experiment) -> RetrievalModel:
    settings.set_precision(message.training.run)
    options = config.set_fields(message.model)
    name = options.pop("name", None)
    require(bool(name), "A config's model section must have a name.")
    options.setdefault("seed", message.training.run.seed)
    return create.create_model(name, **options)


def _create_teacher(losses: experiment_pb2.LossesConfig) -> RetrievalModel | None:
    if not losses.distillation_weight or not losses.HasField("teacher"):
        return None
    wanted = config.set_fields(losses.teacher)
    require(
        "name" in wanted and "weights" in wanted,
        "A teacher must have a name and weights.",
        hint="Give --set training.losses.teacher.weights=PATH.",
        teacher=wanted,
    )
    return create.create_model(wanted.pop("name"), **wanted)


def _create_objective(
    options: experiment_pb2.TrainingConfig,
    model: RetrievalModel,
    num_classes: int,
    teacher: RetrievalModel | None,
) -> Objective:
    losses, tuples = options.losses, options.input.tuples
    of_tuples: dict[str, Any] = {}
    if options.input.HasField("tuples"):
        of_tuples["tuple_size"] = 2 + tuples.num_negatives
        of_tuples["tuple_margin"] = tuples.margin if tuples.HasField("margin") else None
    weights = {name: getattr(losses, f"{name}_weight") for name in LOSSES if name != "tuple"}
    return Objective(
        model,
        num_classes,
        weights={**weights, "tuple": tuples.loss_weight},
        classifier=losses.classifier,
        margin=losses.margin,
        scale=losses.scale,
        num_sampled=losses.num_sampled_classes,
        step=losses.step,
        teacher=teacher,
        seed=options.run.seed,
        **of_tuples,
    )


def _create_tuple_stream(
    options: experiment_pb2.TrainingConfig,
    records: Records,
    model: RetrievalModel,
    output_dir: Path,
    fingerprint: str,
) -> tuple_stream.TupleStream:
    tuples = options.input.tuples
    require(
        bool(tuples.database) and options.input.views == 1,
        "Training on tuples must have a database and views: 1.",
        hint="Give --set training.input.tuples.database=retrieval-SfM-120k.pkl.",
        database=tuples.database,
        views=options.input.views,
    )
    split = sfm120k.read_database(tuples.database, tuples.split)
    lookup = record_lookup.locate_records(records.paths)
    miner = TupleMiner(
        tuple_stream.with_records(split, lookup),
        num_queries=tuples.num_queries,
        pool_size=tuples.pool_size,
        num_negatives=tuples.num_negatives,
        seed=options.run.seed,
    )
    return tuple_stream.TupleStream(
        lookup,
        miner,
        tuple_stream.RecordDescriber(model, lookup, image_size=options.input.image_size),
        output_dir / "tuples",
        batch_size=options.input.batch_size,
        fingerprint=fingerprint,
    )


def _create_evaluation(
    options: experiment_pb2.TrainingConfig, model: RetrievalModel
) -> Callable[[], Mapping[str, float]] | None:
    if not options.run.eval_dir:
        return None
    refs = folder.list_images(options.run.eval_dir)
    if options.run.eval_labels:
        labels = folder.read_labels(options.run.eval_labels)
    else:
        labels = {ref.id: ref.id.rpartition("/")[0] for ref in refs}
    size = options.input.image_size
    return RetrievalEvaluation(model, refs, labels, search_all, image_size=size)


def _num_classes(options: experiment_pb2.TrainingConfig, records: Records) -> int:
    found = records.manifest["num_classes"] if records.manifest else None
    if found is None:
        # Of shards made elsewhere a part is looked at now, each label when its turn comes.
        found = input_pipeline.label_range(records.paths, _NUM_SAMPLED_RECORDS)[1] + 1
    wanted = options.losses.num_classes or found
    require(
        found <= wanted if not records.manifest else found == wanted,
        "num_classes must be the number of classes of the records.",
        hint="Leave num_classes out of the config to take it from the records.",
        num_classes=options.losses.num_classes,
        classes_in_records=found,
    )
    require(wanted > 1, "Records to train on must have at least two classes.", num_classes=wanted)
    return int(wanted)


def _provenance(message: experiment_pb2.Experiment, records: Records) -> dict[str, Any]:
    source = dict(records.manifest["source"]) if records.manifest else {"kind": "foreign records"}
    weights = Path(message.model.weights)
    shown = experiment_pb2.Experiment.FromString(message.SerializeToString())
    if weights.name:
        # Where the file lay on this machine concerns nobody who gets the weights.
        shown.model.weights = weights.name
    initial: dict[str, Any] = {"file": weights.name or "random"}
    if weights.is_file() and checkpoint.is_weights_file(weights):
        initial["provenance"] = checkpoint.read_options(weights)["provenance"]
    return {
        "training_set": source,
        "num_training_images": records.num_records,
        "initial_weights": initial,
        "config": text_format.MessageToString(shown),
    }


def _fingerprint(message: experiment_pb2.Experiment, records: Records) -> str:
    """Returns the fingerprint of what decides the result; how often to log or save does not."""
    deciding = experiment_pb2.Experiment(model=message.model, training=message.training)
    for name in ("checkpoint_interval", "log_interval", "eval_interval", "eval_dir", "eval_labels"):
        deciding.training.run.ClearField(name)
    return config.fingerprint(
        deciding, json.dumps([Path(p).name for p in records.paths]), *map(str, records.counts)
    )
