"""The four systems learn in compact form: shortly in every run, thoroughly in slow ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from delf_tf import config
from delf_tf.models.zoo.checkpoint import OPTIONS_KEY
from delf_tf.pipelines.runtime import Runtime
from tests.training import inliers, smoke

# Every image as it is, so that a loss falls by learning alone.
PLAIN = (
    "training.input.crop=squash",
    "training.input.distortions=",
    "training.schedule.warmup_steps=0",
)

# Times the mAP of random weights, at each stage.
LEAST_GAIN = {"dolg": 2.5, "superfeatures": 1.5, "delf": 1.2, "delg": 2.5}


@pytest.fixture(scope="module")
def few_records(tmp_path_factory):
    """Sixteen photographs of eight landmarks."""
    folder = tmp_path_factory.mktemp("few")
    return smoke.write_records(smoke.write_photographs(folder, 8, 2, image_side=80))


@pytest.mark.parametrize("system", smoke.SYSTEMS)
def test_the_loss_falls(few_records, tmp_path, system):
    short = (
        "training.run.num_steps=14",
        "training.input.batch_size=16",
        "training.input.image_size=64",
    )
    runs = smoke.train_system(
        system, few_records, tmp_path, *PLAIN, *short, "training.run.log_interval=1"
    )
    for run in runs:
        losses = [row["loss"] for row in run.metrics]
        assert len(losses) == 14
        assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]), run.folder.name


def test_attention_is_trained_on_frozen_features(few_records, tmp_path):
    short = (
        "training.run.num_steps=2",
        "training.input.batch_size=4",
        "training.input.image_size=32",
    )
    descriptor, attention = smoke.train_system("delf", few_records, tmp_path, *PLAIN, *short)
    before, after = (np.load(run.weights) for run in (descriptor, attention))
    changed = {name for name in before.files if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith("attention.")} <= {OPTIONS_KEY}
    assert "attention.score.kernel" in changed


@pytest.mark.slow
@pytest.mark.parametrize("system", smoke.SYSTEMS)
def test_thirty_two_images_are_learnt_by_heart(tmp_path, system):
    pattern = smoke.write_records(smoke.write_photographs(tmp_path / "photos", 8, 4))
    long = (
        "training.run.num_steps=240",
        "training.run.log_interval=20",
        "training.optimizer.learning_rate=0.003",
    )
    runs = smoke.train_system(system, pattern, tmp_path, *PLAIN, *long)
    assert runs[0].metrics[-1]["accuracy"] > 0.95


@pytest.fixture(scope="module")
def landmarks(tmp_path_factory):
    """Forty landmarks: records of twelve views of each, and labels of four other views."""
    folder = tmp_path_factory.mktemp("landmarks")
    records = smoke.write_records(smoke.write_photographs(folder / "train", 40, 12))
    return records, smoke.write_photographs(folder / "test", 40, 4, first_view=12)


@pytest.fixture(scope="module")
def trained(landmarks, tmp_path_factory):
    """Returns the weights of a system, trained once by its smoke configs."""

    @functools.cache
    def weights(system):
        folder = tmp_path_factory.mktemp(system)
        return smoke.train_system(system, landmarks[0], folder)[-1].weights

    return weights


@pytest.mark.slow
@pytest.mark.parametrize("system", smoke.SYSTEMS)
def test_unseen_views_are_found_far_better_than_at_random(landmarks, trained, tmp_path, system):
    labels = landmarks[1]
    learnt = smoke.retrieval_map(system, labels, tmp_path / "learnt", trained(system))
    random = smoke.retrieval_map(system, labels, tmp_path / "random")
    for stage, score in learnt.items():
        assert score > LEAST_GAIN[system] * random[stage], (stage, learnt, random)


@pytest.mark.slow
def test_attention_selects_more_true_inliers_than_chance(trained):
    message = config.load_experiment(smoke.config_path("smoke_delf_attention"))
    message.model.weights = str(trained("delf"))
    message.extraction.max_num_features = 1000
    by_attention, by_chance = inliers.shares(Runtime(message).extractor())
    assert by_attention > 1.2 * by_chance
