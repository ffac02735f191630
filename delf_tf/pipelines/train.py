"""TFRecords to weights: the parts of a training run, from a config."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from delf_tf import config
from delf_tf.checks import UsageError, require
from delf_tf.protos import experiment_pb2

if TYPE_CHECKING:
    from delf_tf.datasets.input.pipeline import InputPipeline
    from delf_tf.datasets.records.schema import Records
    from delf_tf.models.retrieval_model import RetrievalModel
    from delf_tf.training.trainer import Trainer
    from delf_tf.training.tuple_stream import TupleStream


def train(
    message: experiment_pb2.Experiment,
    train_file_pattern: str,
    output_dir: str | Path,
    *,
    strategy: str = "default",
    peak_tflops: float | None = None,
) -> Path:
    """Trains the experiment's model; a run in `output_dir` is gone on with.

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
      InputError: see `create_trainer`.
    """
    if not message.HasField("training"):
        raise UsageError("A config to train by must have a section training.")
    peak_flops = (peak_tflops or 0) * 1e12
    # Of several devices, what one does is not the sum.
    if peak_tflops == 0 and strategy == "default":
        from delf_tf.training import throughput  # noqa: PLC0415 - TensorFlow takes seconds to load

        peak_flops = throughput.measured_peak_flops()
    trainer = create_trainer(
        message, train_file_pattern, output_dir, strategy=strategy, peak_flops=peak_flops
    )
    path = trainer.run()
    logging.info("%d steps done.", trainer.step)
    return path


def create_trainer(
    message: experiment_pb2.Experiment,
    train_file_pattern: str,
    output_dir: str | Path,
    *,
    strategy: str = "default",
    peak_flops: float = 0.0,
) -> Trainer:
    """Builds model, losses, optimizer and input from a config.

    Raises:
      InputError: the data is missing or damaged, or its classes disagree with the config's.
    """
    # TensorFlow takes seconds to load.
    from delf_tf.datasets.input import pipeline as input_pipeline  # noqa: PLC0415
    from delf_tf.datasets.records import schema  # noqa: PLC0415
    from delf_tf.training import schedules, trainer  # noqa: PLC0415
    from delf_tf.training import strategy as strategies  # noqa: PLC0415

    options = message.training
    distribution = strategies.create_strategy(strategy)
    records = schema.open_records(train_file_pattern, check=options.check_records)
    records = input_pipeline.repaired(
        records, str(Path(output_dir) / "repaired"), options.max_bad_records
    )
    num_classes = _num_classes(options, records)
    with distribution.scope():
        model = _create_model(message)
        teacher = _create_teacher(options)
        if distribution.num_replicas_in_sync > 1:
            strategies.synchronize_batch_norm(model)
        objective, optimizer = _create_objective(options, model, num_classes, teacher)
    fingerprint = _fingerprint(message, records)
    pipeline = create_pipeline(options, records, num_classes)
    if options.HasField("tuples"):
        stream = _create_tuple_stream(options, records, model, output_dir, fingerprint)
        pipeline = dataclasses.replace(pipeline, stream=stream)
    provenance = _provenance(message, records)
    return trainer.Trainer(
        objective,
        optimizer,
        pipeline,
        output_dir,
        learning_rate=schedules.create_schedule(
            options.schedule,
            options.learning_rate,
            warmup_steps=options.warmup_steps,
            milestones=tuple(options.step_milestones) or (0.5, 0.75),
            factor=options.step_factor,
        ),
        limits=trainer.Limits(
            options.num_steps,
            options.max_seconds,
            options.checkpoint_interval,
            options.log_interval,
            options.eval_interval,
        ),
        strategy=distribution,
        jit_compile=options.jit_compile,
        evaluate=_create_evaluation(options, model),
        seed=options.seed,
        fingerprint=fingerprint,
        provenance=provenance,
        peak_flops=peak_flops,
    )


def create_pipeline(
    options: experiment_pb2.TrainingConfig, records: Records, num_classes: int
) -> InputPipeline:
    """Builds the input pipeline of a training section."""
    from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream  # noqa: PLC0415

    crop_options: dict[str, Any] = {}
    if options.crop == "random_resized":
        crop_options["min_area"] = options.min_crop_area
    elif options.crop == "fixed":
        crop_options["resize_to"] = options.resize_to
    stream = RecordStream(
        records.paths, records.counts, options.seed, shuffle_window=options.shuffle_window
    )
    distortions = [(one.name, one.strength, one.probability) for one in options.distortions]
    return InputPipeline(
        stream,
        options.batch_size,
        options.image_size,
        crop=options.crop,
        crop_options=tuple(crop_options.items()),
        distortions=tuple(distortions),
        rescale_sides=tuple(options.rescale_sides),
        num_classes=num_classes,
        views=options.views,
        seed=options.seed,
        deterministic=options.deterministic,
    )


def _create_model(message: experiment_pb2.Experiment) -> RetrievalModel:
    import tensorflow as tf  # noqa: PLC0415

    from delf_tf.models import create  # noqa: PLC0415

    tf.keras.mixed_precision.set_global_policy(message.training.precision)
    options = config.set_fields(message.model)
    name = options.pop("name", None)
    require(bool(name), "A config's model section must have a name.")
    options.setdefault("seed", message.training.seed)
    return create.create_model(name, **options)


def _create_teacher(options: experiment_pb2.TrainingConfig) -> RetrievalModel | None:
    if not options.distillation_loss_weight or not options.HasField("teacher"):
        return None
    from delf_tf.models import create  # noqa: PLC0415

    wanted = config.set_fields(options.teacher)
    require(
        "name" in wanted and "weights" in wanted,
        "A teacher must have a name and weights.",
        hint="Give --set training.teacher.weights=PATH.",
        teacher=wanted,
    )
    return create.create_model(wanted.pop("name"), **wanted)


def _create_objective(
    options: experiment_pb2.TrainingConfig,
    model: RetrievalModel,
    num_classes: int,
    teacher: RetrievalModel | None,
) -> tuple[Any, Any]:
    from delf_tf.training import optimizers  # noqa: PLC0415
    from delf_tf.training.objective import Objective  # noqa: PLC0415

    objective = Objective(
        model,
        num_classes,
        classifier=options.classifier,
        margin=options.arcface_margin,
        scale=options.arcface_scale,
        num_sampled=options.num_sampled_classes,
        step=options.step,
        descriptor_weight=options.descriptor_loss_weight,
        attention_weight=options.attention_loss_weight,
        reconstruction_weight=options.reconstruction_loss_weight,
        contrastive_weight=options.contrastive_loss_weight,
        superfeature_weight=options.superfeature_loss_weight,
        decorrelation_weight=options.decorrelation_loss_weight,
        distillation_weight=options.distillation_loss_weight,
        teacher=teacher,
        seed=options.seed,
        **_tuple_options(options),
    )
    optimizer = optimizers.Optimizer(
        options.optimizer,
        objective.trainable_variables(tuple(options.trainable)),
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        ema_decay=options.ema_decay,
        settings=optimizers.Settings(momentum=options.momentum, nesterov=options.nesterov),
    )
    return objective, optimizer


def _tuple_options(options: experiment_pb2.TrainingConfig) -> dict[str, Any]:
    tuples = options.tuples
    if not options.HasField("tuples"):
        return {}
    return {
        "tuple_size": 2 + tuples.num_negatives,
        "tuple_loss": tuples.loss,
        "tuple_margin": tuples.margin if tuples.HasField("margin") else None,
        "tuple_weight": tuples.loss_weight,
    }


def _create_tuple_stream(
    options: experiment_pb2.TrainingConfig,
    records: Records,
    model: RetrievalModel,
    output_dir: str | Path,
    fingerprint: str,
) -> TupleStream:
    from delf_tf.datasets import sfm120k  # noqa: PLC0415
    from delf_tf.datasets.records import lookup as record_lookup  # noqa: PLC0415
    from delf_tf.training import tuple_stream  # noqa: PLC0415
    from delf_tf.training.tuples import TupleMiner  # noqa: PLC0415

    tuples = options.tuples
    require(
        bool(tuples.database) and options.views == 1,
        "Training on tuples must have a database and views: 1.",
        hint="Give --set training.tuples.database=retrieval-SfM-120k.pkl.",
        database=tuples.database,
        views=options.views,
    )
    split = sfm120k.read_database(tuples.database, tuples.split)
    lookup = record_lookup.locate_records(records.paths)
    miner = TupleMiner(
        tuple_stream.with_records(split, lookup),
        num_queries=tuples.num_queries,
        pool_size=tuples.pool_size,
        num_negatives=tuples.num_negatives,
        seed=options.seed,
    )
    return tuple_stream.TupleStream(
        lookup,
        miner,
        tuple_stream.RecordDescriber(model, lookup, image_size=options.image_size),
        Path(output_dir) / "tuples",
        batch_size=options.batch_size,
        fingerprint=fingerprint,
    )


def _create_evaluation(
    options: experiment_pb2.TrainingConfig, model: RetrievalModel
) -> Callable[[], Mapping[str, float]] | None:
    if not options.eval_dir:
        return None
    from delf_tf.datasets import folder  # noqa: PLC0415
    from delf_tf.training.evaluation import RetrievalEvaluation  # noqa: PLC0415

    refs = folder.list_images(options.eval_dir)
    if options.eval_labels:
        labels = folder.read_labels(options.eval_labels)
    else:
        labels = {ref.id: ref.id.rpartition("/")[0] for ref in refs}
    return RetrievalEvaluation(model, refs, labels, image_size=options.image_size)


def _num_classes(options: experiment_pb2.TrainingConfig, records: Records) -> int:
    from delf_tf.datasets.input import pipeline as input_pipeline  # noqa: PLC0415

    found = records.manifest["num_classes"] if records.manifest else None
    if found is None:
        # Of shards made elsewhere a part is looked at now, each label when its turn comes.
        found = input_pipeline.label_range(records.paths, 4096)[1] + 1
    wanted = options.num_classes or found
    require(
        found <= wanted if not records.manifest else found == wanted,
        "num_classes must be the number of classes of the records.",
        hint="Leave num_classes out of the config to take it from the records.",
        num_classes=options.num_classes,
        classes_in_records=found,
    )
    require(wanted > 1, "Records to train on must have at least two classes.", num_classes=wanted)
    return int(wanted)


def _provenance(message: experiment_pb2.Experiment, records: Records) -> dict[str, Any]:
    from google.protobuf import text_format  # noqa: PLC0415

    source = dict(records.manifest["source"]) if records.manifest else {"kind": "foreign records"}
    return {
        "training_set": source,
        "num_training_images": records.num_records,
        "initial_weights": Path(message.model.weights).name or "random",
        "config": text_format.MessageToString(message),
    }


def _fingerprint(message: experiment_pb2.Experiment, records: Records) -> str:
    """Of what decides the result; how often to log or to save does not."""
    deciding = experiment_pb2.Experiment()
    deciding.model.CopyFrom(message.model)
    deciding.training.CopyFrom(message.training)
    for name in ("checkpoint_interval", "log_interval", "eval_interval", "eval_dir", "eval_labels"):
        deciding.training.ClearField(name)
    return config.fingerprint(
        deciding, json.dumps([Path(p).name for p in records.paths]), *map(str, records.counts)
    )
