"""Builds and runs a training from a config: TFRecords, or pairs of features, to weights."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from delf_tf import artifacts, config
from delf_tf.checks import UsageError, require, require_choice
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file

if TYPE_CHECKING:
    from delf_tf.datasets.input.pipeline import InputPipeline
    from delf_tf.datasets.records.schema import Records
    from delf_tf.features.store import FeatureStore
    from delf_tf.models.retrieval_model import RetrievalModel
    from delf_tf.training.optimizers import Optimizer
    from delf_tf.training.trainer import Trainer
    from delf_tf.training.tuple_stream import TupleStream

# Numeric precision of training -> Keras' policy, under which variables stay in float32.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Pairs of images are drawn at random; this many images stay decoded.
_CACHED_IMAGES = 2048


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


def train_similarity(
    message: experiment_pb2.Experiment,
    ranking_path: str | Path,
    store: FeatureStore,
    labels: Mapping[str, str],
    output_dir: str | Path,
    *,
    strategy: str = "default",
) -> Path:
    """Trains ELViS or AMES on pairs of images; a run in `output_dir` is gone on with.

    Args:
      message: its model is "elvis", "ames" or "ames_student"; its section training gives optimizer,
        schedule, run, input.batch_size, in pairs, and in `losses` a teacher, if there is one.
      ranking_path: of the store's images searched among themselves, for hard negatives.
      store: local features.
      labels: place by image.
      output_dir: of the run: checkpoints, metrics, weights.
      strategy: see `pipelines.train.train`.

    Returns:
      The path of the weights (.npz), for rerank.learned.weights.

    Raises:
      UsageError: a config without a training section.
      InputError: images without local features, no image with a positive and a negative.
    """
    if not message.HasField("training"):
        raise UsageError("A config to train by must have a section training.")
    # TensorFlow takes seconds to load.
    import tensorflow as tf  # noqa: PLC0415

    from delf_tf.models.similarity import create  # noqa: PLC0415
    from delf_tf.training import pairs, trainer  # noqa: PLC0415
    from delf_tf.training import strategy as strategies  # noqa: PLC0415

    options = message.training
    anchors = pairs.find_anchors(ranking_file.load_ranking(ranking_path), labels)
    dim = store.read_local(anchors[0].image).dim
    tf.keras.mixed_precision.set_global_policy(POLICIES[options.run.precision])
    distribution = strategies.create_strategy(strategy)
    with distribution.scope():
        model = create.create(message.model.name, dim, options.run.seed)
        taught = options.losses.distillation_weight
        teacher = create.load(options.losses.teacher.weights) if taught else None
        objective = pairs.PairObjective(model, teacher, taught)
        optimizer = _create_optimizer(options, objective.variables)
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
        **_pace(options),
        strategy=distribution,
        fingerprint=config.fingerprint(
            message,
            store.identity(),
            artifacts.file_fingerprint(ranking_path),
            json.dumps(sorted(labels.items())),
        ),
        provenance={"training_set": store.identity(), "num_training_images": len(anchors)},
    ).run()


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
    from delf_tf.training import strategy as strategies  # noqa: PLC0415
    from delf_tf.training import trainer  # noqa: PLC0415

    options = message.training
    distribution = strategies.create_strategy(strategy)
    records = schema.open_records(train_file_pattern, check=options.input.check_records)
    records = input_pipeline.repaired(
        records, str(Path(output_dir) / "repaired"), options.input.max_bad_records
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
    if options.input.HasField("tuples"):
        stream = _create_tuple_stream(options, records, model, output_dir, fingerprint)
        pipeline = dataclasses.replace(pipeline, stream=stream)
    provenance = _provenance(message, records)
    return trainer.Trainer(
        objective,
        optimizer,
        pipeline,
        output_dir,
        **_pace(options),
        strategy=distribution,
        jit_compile=options.run.jit_compile,
        evaluate=_create_evaluation(options, model),
        fingerprint=fingerprint,
        provenance=provenance,
        peak_flops=peak_flops,
    )


def _pace(options: experiment_pb2.TrainingConfig) -> dict[str, Any]:
    """Returns a Trainer's arguments on how long and how fast it learns."""
    from delf_tf.training import schedules, trainer  # noqa: PLC0415

    run = options.run
    return {
        "learning_rate": schedules.create_schedule(
            options.schedule.name,
            options.optimizer.learning_rate,
            warmup_steps=options.schedule.warmup_steps,
        ),
        "limits": trainer.Limits(
            run.num_steps,
            run.max_seconds,
            run.checkpoint_interval,
            run.log_interval,
            run.eval_interval,
        ),
        "seed": run.seed,
    }


def create_pipeline(
    options: experiment_pb2.TrainingConfig, records: Records, num_classes: int
) -> InputPipeline:
    """Builds the input pipeline of a training section."""
    from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream  # noqa: PLC0415

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
    import tensorflow as tf  # noqa: PLC0415

    from delf_tf.models import create  # noqa: PLC0415

    precision = message.training.run.precision
    require_choice("precision", precision, POLICIES)
    tf.keras.mixed_precision.set_global_policy(POLICIES[precision])
    options = config.set_fields(message.model)
    name = options.pop("name", None)
    require(bool(name), "A config's model section must have a name.")
    options.setdefault("seed", message.training.run.seed)
    return create.create_model(name, **options)


def _create_teacher(options: experiment_pb2.TrainingConfig) -> RetrievalModel | None:
    if not options.losses.distillation_weight or not options.losses.HasField("teacher"):
        return None
    from delf_tf.models import create  # noqa: PLC0415

    wanted = config.set_fields(options.losses.teacher)
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
) -> tuple[Any, Any]:
    from delf_tf.training.objective import Objective  # noqa: PLC0415

    losses = options.losses
    objective = Objective(
        model,
        num_classes,
        classifier=losses.classifier,
        margin=losses.margin,
        scale=losses.scale,
        num_sampled=losses.num_sampled_classes,
        step=losses.step,
        descriptor_weight=losses.descriptor_weight,
        attention_weight=losses.attention_weight,
        reconstruction_weight=losses.reconstruction_weight,
        contrastive_weight=losses.contrastive_weight,
        superfeature_weight=losses.superfeature_weight,
        decorrelation_weight=losses.decorrelation_weight,
        distillation_weight=losses.distillation_weight,
        teacher=teacher,
        seed=options.run.seed,
        **_tuple_options(options),
    )
    trained = objective.trainable_variables(tuple(options.optimizer.trainable))
    return objective, _create_optimizer(options, trained)


def _create_optimizer(
    options: experiment_pb2.TrainingConfig, variables: Mapping[str, Any]
) -> Optimizer:
    from delf_tf.training import optimizers  # noqa: PLC0415

    return optimizers.Optimizer(
        options.optimizer.name,
        variables,
        weight_decay=options.optimizer.weight_decay,
        clip_norm=options.optimizer.clip_norm,
        ema_decay=options.optimizer.ema_decay,
        settings=optimizers.Settings(
            momentum=options.optimizer.momentum, nesterov=options.optimizer.nesterov
        ),
    )


def _tuple_options(options: experiment_pb2.TrainingConfig) -> dict[str, Any]:
    tuples = options.input.tuples
    if not options.input.HasField("tuples"):
        return {}
    return {
        "tuple_size": 2 + tuples.num_negatives,
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
        Path(output_dir) / "tuples",
        batch_size=options.input.batch_size,
        fingerprint=fingerprint,
    )


def _create_evaluation(
    options: experiment_pb2.TrainingConfig, model: RetrievalModel
) -> Callable[[], Mapping[str, float]] | None:
    if not options.run.eval_dir:
        return None
    from delf_tf.datasets import folder  # noqa: PLC0415
    from delf_tf.retrieval.vectors.index import search_all  # noqa: PLC0415
    from delf_tf.training.evaluation import RetrievalEvaluation  # noqa: PLC0415

    refs = folder.list_images(options.run.eval_dir)
    if options.run.eval_labels:
        labels = folder.read_labels(options.run.eval_labels)
    else:
        labels = {ref.id: ref.id.rpartition("/")[0] for ref in refs}
    size = options.input.image_size
    return RetrievalEvaluation(model, refs, labels, search_all, image_size=size)


def _num_classes(options: experiment_pb2.TrainingConfig, records: Records) -> int:
    from delf_tf.datasets.input import pipeline as input_pipeline  # noqa: PLC0415

    found = records.manifest["num_classes"] if records.manifest else None
    if found is None:
        # Of shards made elsewhere a part is looked at now, each label when its turn comes.
        found = input_pipeline.label_range(records.paths, 4096)[1] + 1
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
    from google.protobuf import text_format  # noqa: PLC0415

    from delf_tf.models.zoo import checkpoint  # noqa: PLC0415

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
    """Of what decides the result; how often to log or to save does not."""
    deciding = experiment_pb2.Experiment()
    deciding.model.CopyFrom(message.model)
    deciding.training.CopyFrom(message.training)
    for name in ("checkpoint_interval", "log_interval", "eval_interval", "eval_dir", "eval_labels"):
        deciding.training.run.ClearField(name)
    return config.fingerprint(
        deciding, json.dumps([Path(p).name for p in records.paths]), *map(str, records.counts)
    )
