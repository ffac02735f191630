from __future__ import annotations

import csv

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream
from delf_tf.datasets.records import schema
from delf_tf.models.zoo import checkpoint
from delf_tf.training import optimizers, run_state, strategy
from delf_tf.training import trainer as trainer_module
from delf_tf.training.objective import Objective
from delf_tf.training.schedules import create_schedule
from delf_tf.training.trainer import Limits, Trainer, TrainingError
from tests.training.tiny_model import TinyModel

NUM_CLASSES = 4


def _pipeline(records_dir, **options):
    records = schema.open_records(str(records_dir))
    stream = RecordStream(records.paths, records.counts, seed=1, shuffle_window=6)
    defaults = {"batch_size": 8, "image_size": 16, "crop": "squash", "num_classes": NUM_CLASSES}
    return InputPipeline(stream, **{**defaults, **options})


def _trainer(
    records_dir,
    folder,
    *,
    num_steps=6,
    rule="adamw",
    rate=0.01,
    distribution=None,
    ema_decay=0.9,
    objective=None,
    pipeline=None,
    limits=None,
    **options,
):
    distribution = distribution or tf.distribute.get_strategy()
    with distribution.scope():
        model = TinyModel()
        model.record_options("tiny", {})
        model.initialize(seed=3)
        if distribution.num_replicas_in_sync > 1:
            assert strategy.synchronize_batch_norm(model) == 3
        objective = Objective(
            model, NUM_CLASSES, scale=8.0, weights={"reconstruction": 1.0}, **(objective or {})
        )
        optimizer = optimizers.Optimizer(
            rule,
            objective.trainable_variables(),
            weight_decay=0.01,
            clip_norm=5.0,
            ema_decay=ema_decay,
        )
    limits = {"checkpoint_interval": 3, "log_interval": 2, **(limits or {})}
    return Trainer(
        objective,
        optimizer,
        _pipeline(records_dir, **(pipeline or {})),
        folder,
        learning_rate=create_schedule("cosine", rate, warmup_steps=2),
        limits=Limits(num_steps, **limits),
        strategy=distribution,
        **options,
    )


def _metrics(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_it_learns_and_writes_what_it_says(records_dir, tmp_path):
    trainer = _trainer(
        records_dir,
        tmp_path,
        num_steps=150,
        limits={"checkpoint_interval": 100, "log_interval": 10},
    )
    weights = trainer.run()
    rows = _metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(10, 151, 10))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert np.mean([row["accuracy"] for row in rows[-3:]]) > 0.95
    assert {"images_per_second", "input_wait_share", "gradient_norm", "descriptor_loss"} < set(
        rows[0]
    )
    assert checkpoint.read_options(weights)["provenance"]["steps"] == 150
    assert [p.name for p in run_state.list_states(tmp_path / "checkpoints")] == [
        "step-000000100.npz",
        "step-000000150.npz",
    ]
    events = next((tmp_path / "tensorboard").glob("events*"))
    tags = {
        value.tag
        for raw in tf.data.TFRecordDataset(str(events)).as_numpy_iterator()
        for value in tf.compat.v1.Event.FromString(raw).summary.value
    }
    assert {"loss", "accuracy", "steps_per_second"} <= tags


def test_a_stopped_run_goes_on_bit_equal(records_dir, tmp_path):
    distorted = {"crop": "random_resized", "distortions": (("brightness", 0.2, 0.5),)}
    _trainer(records_dir, tmp_path / "whole", pipeline=distorted).run()
    first = _trainer(records_dir, tmp_path / "halves", pipeline=distorted)
    evaluations = []

    def stop_at_four():
        evaluations.append(first.step)
        first.stop()
        return {"mAP": 0.0}

    first._evaluate = stop_at_four
    first._limits = Limits(6, checkpoint_interval=3, log_interval=2, eval_interval=4)
    first.run()
    assert first.step == 4
    second = _trainer(records_dir, tmp_path / "halves", pipeline=distorted)
    second.run()
    name = "step-000000006.npz"
    states = [
        run_state.load_state(tmp_path / d / "checkpoints" / name) for d in ("whole", "halves")
    ]
    assert set(states[0].arrays) == set(states[1].arrays)
    for key, array in states[0].arrays.items():
        np.testing.assert_array_equal(array, states[1].arrays[key], err_msg=key)
    weights = [(tmp_path / d / "weights.npz").read_bytes() for d in ("whole", "halves")]
    assert weights[0] == weights[1]
    losses = [[row.get("loss") for row in _metrics(tmp_path / d)] for d in ("whole", "halves")]
    assert losses[0] == [loss for loss in losses[1] if loss is not None]


def test_another_run_is_refused(records_dir, tmp_path):
    _trainer(records_dir, tmp_path, num_steps=2, fingerprint="a").run()
    with pytest.raises(InputError, match="no other run"):
        _trainer(records_dir, tmp_path, num_steps=2, fingerprint="b").run()
    state = run_state.list_states(tmp_path / "checkpoints")[-1]
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match="must be a whole"):
        _trainer(records_dir, tmp_path, num_steps=2, fingerprint="a").run()


def test_a_loss_that_is_not_finite_names_step_and_images(records_dir, tmp_path):
    trainer = _trainer(
        records_dir,
        tmp_path,
        rate=1e30,
        rule="sgd",
        limits={"checkpoint_interval": 1},
    )
    with pytest.raises(TrainingError, match=r"step=[1-5].*images=\['i"):
        trainer.run()
    for path in run_state.list_states(tmp_path / "checkpoints"):
        for array in run_state.load_state(path).arrays.values():
            assert np.isfinite(array).all()


def test_labels_out_of_range_stop_the_run(records_dir, tmp_path):
    trainer = _trainer(records_dir, tmp_path, pipeline={"num_classes": 3})
    with pytest.raises(TrainingError, match=r"step=0.*0\.\.2"):
        trainer.run()


def test_time_limit_ends_run_and_schedule(records_dir, tmp_path):
    trainer = _trainer(
        records_dir, tmp_path, num_steps=10**6, limits={"max_seconds": 6.0, "log_interval": 1}
    )
    trainer.run()
    assert 0 < trainer.step < 10**6
    assert _metrics(tmp_path)[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-5)


def test_moving_average_is_what_is_saved(records_dir, tmp_path):
    trainer = _trainer(records_dir, tmp_path, num_steps=3)
    trainer.run()
    state = run_state.load_state(run_state.list_states(tmp_path / "checkpoints")[-1])
    model = TinyModel()
    model.record_options("tiny", {})
    model.initialize(seed=0)
    checkpoint.load_weights(model, tmp_path / "weights.npz")
    kernel = model.whitening.kernel.numpy()
    np.testing.assert_array_equal(kernel, state.arrays["optimizer/ema/model/whitening.kernel"])
    assert np.abs(kernel - state.arrays["model/whitening.kernel"]).max() > 0


def test_best_weights_follow_the_evaluation(records_dir, tmp_path):
    scores = iter([0.2, 0.6, 0.4])
    trainer = _trainer(
        records_dir,
        tmp_path,
        evaluate=lambda: {"mAP": next(scores)},
        limits={"eval_interval": 2, "log_interval": 100},
        num_steps=5,
    )
    trainer.run()
    best = checkpoint.read_options(tmp_path / "best_weights.npz")["provenance"]
    assert best["steps"] == 4
    assert [row["mAP"] for row in _metrics(tmp_path) if "mAP" in row] == [0.2, 0.6, 0.4]


def test_a_run_that_learns_nothing_warns(records_dir, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(trainer_module.logging, "warning", lambda *args: warnings.append(args))
    trainer = _trainer(records_dir, tmp_path, num_steps=1000)
    for step, accuracy in ((100, 0.2), (400, 0.9), (400, 0.2)):
        trainer._step = step
        trainer._warn_if_nothing_is_learnt({"accuracy": accuracy, "loss": 3.0})
    assert [args[1:3] for args in warnings] == [(0.2, 400)]


def _losses(trainer, folder):
    trainer.run()
    return [row["loss"] for row in _metrics(folder)]


def test_two_devices_equal_one(records_dir, tmp_path, mirrored):
    limits = {"log_interval": 1, "checkpoint_interval": 100}
    options = {"num_steps": 20, "rule": "sgd", "rate": 0.02, "limits": limits}
    one = _losses(_trainer(records_dir, tmp_path / "one", **options), tmp_path / "one")
    trainer = _trainer(records_dir, tmp_path / "two", distribution=mirrored, **options)
    two = _losses(trainer, tmp_path / "two")
    assert len(one) == 20
    assert one[-1] < one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_the_whole_step_compiles_by_xla(records_dir, tmp_path):
    plain = _losses(_trainer(records_dir, tmp_path / "a", num_steps=4), tmp_path / "a")
    compiled = _trainer(records_dir, tmp_path / "b", num_steps=4, jit_compile=True)
    np.testing.assert_allclose(_losses(compiled, tmp_path / "b"), plain, rtol=1e-3)


def test_sampled_classes_train_and_resume(records_dir, tmp_path):
    options = {"objective": {"num_sampled": 4}, "num_steps": 3}
    loss = _losses(_trainer(records_dir, tmp_path, pipeline={"batch_size": 4}, **options), tmp_path)
    assert np.isfinite(loss).all()


def test_bfloat16_trains_and_keeps_its_variables_in_float32(records_dir, tmp_path):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        trainer = _trainer(records_dir, tmp_path, num_steps=60, rate=0.02, ema_decay=0.0)
        weights = trainer.run()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    losses = [row["loss"] for row in _metrics(tmp_path)]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    with np.load(weights) as stored:
        kinds = {stored[name].dtype for name in stored.files if name.endswith("kernel")}
    assert kinds == {np.dtype(np.float32)}


def test_refused_limits():
    with pytest.raises(InputError, match="num_steps"):
        Limits(0)
    with pytest.raises(InputError, match="max_seconds"):
        Limits(1, max_seconds=-1.0)
    with pytest.raises(InputError, match="strategy must be one of"):
        strategy.create_strategy("miror")


def test_trainable_parts_are_found(records_dir, tmp_path):
    objective = _trainer(records_dir, tmp_path)._objective
    chosen = objective.trainable_variables(("attention.",))
    assert all(path.startswith(("model/attention.", "heads/")) for path in chosen)
    assert "model/attention.score.kernel" in chosen
    assert "model/backbone.norm.moving_mean" not in objective.trainable_variables()
    with pytest.raises(InputError, match="Did you mean 'attention'"):
        objective.trainable_variables(("attentoin",))
