"""Distribution strategies: one device, several devices, several machines, a TPU."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import invalid, require_choice
from delf_tf.datasets.input.pipeline import InputPipeline

STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")


def create_strategy(name: str = "default") -> tf.distribute.Strategy:
    """Returns a distribution strategy; make models and optimizers within its scope.

    Args:
      name: "default", one device; "mirrored", all the GPUs of this machine (or all logical CPUs if
        there is no GPU); "multi_worker", the machines that the environment variable TF_CONFIG
        lists, the same command on each; "tpu" or "tpu=NAME", the TPU of this machine or the one so
        called.

    Raises:
      InputError: unknown name, or the TPU cannot be reached.
    """
    kind, _, tpu = name.partition("=")
    require_choice("strategy", kind, STRATEGIES)
    if kind == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if kind == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "tpu":
        return _tpu_strategy(tpu)
    return tf.distribute.get_strategy()


def worker_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns (this process's number, number of processes)."""
    resolver = strategy.cluster_resolver
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        num_workers = len(resolver.cluster_spec().as_dict().get("worker", [None]))
        return int(resolver.task_id or 0), num_workers
    return 0, 1


def distribute(strategy: tf.distribute.Strategy, pipeline: InputPipeline, step: int) -> Any:
    """Returns what yields a pipeline's batches from `step` on, each replica's share to itself."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1 and worker_of(strategy)[1] == 1:
        return pipeline.dataset(step)

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return pipeline.dataset(
            step,
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
            num_replicas=replicas // context.num_input_pipelines,
        )

    return strategy.distribute_datasets_from_function(of_worker)


def synchronize_batch_norm(model: tf.keras.Model) -> int:
    """Makes batch normalisation use the statistics of the global batch; returns of how many layers.

    Call it before the model is traced. Without it each replica normalises by its own images, and
    training on N devices is another training than on one.
    """
    count = 0
    for layer in _all_layers(model):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.synchronized = True
            # Keras 2's fused kernel knows nothing of replicas.
            if hasattr(layer, "fused"):
                layer.fused = False
            count += 1
    return count


def _all_layers(layer: tf.keras.layers.Layer) -> list[tf.keras.layers.Layer]:
    flatten = getattr(layer, "_flatten_layers", None)
    return list(flatten()) if flatten else []


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise invalid(
            "The TPU must be reachable.",
            hint="Run on the TPU VM itself with --strategy=tpu, or name one: --strategy=tpu=NAME.",
            strategy=f"tpu={name}" if name else "tpu",
            reason=reason,
        ) from None
    return tf.distribute.TPUStrategy(resolver)
