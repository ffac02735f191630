"""Two logical CPUs for strategies over several devices, and a small set of records."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema

NUM_CLASSES = 4


def _make_two_cpus() -> None:
    cpus = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
    except RuntimeError:
        # TensorFlow has started: another test module of the same run came first.
        return


_make_two_cpus()


@pytest.fixture(scope="session")
def mirrored():
    """A strategy over two logical CPUs.

    One for all tests: a process that makes a second one over the same devices mixes up their
    collectives (TensorFlow 2.21 then complains of mismatching shapes).
    """
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("TensorFlow started before two logical CPUs could be made: run tests/training")
    return tf.distribute.MirroredStrategy([device.name for device in devices[:2]])


def _picture(label, number):
    """Stripes whose direction and colour tell the class."""
    random = np.random.RandomState(10 * label + number)
    rows, columns = np.mgrid[:24, :24]
    stripes = np.sin((rows if label % 2 else columns) * 0.9 + random.uniform(0, 6)) * 80 + 128
    pixels = np.repeat(stripes[..., None], 3, axis=2)
    pixels[..., 0 if label < 2 else 2] *= 0.4
    return np.clip(pixels + random.normal(0, 10, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def records_dir(tmp_path_factory):
    """Four classes of five images in two shards."""
    folder = tmp_path_factory.mktemp("records")
    names = [schema.shard_name("train", shard, 2) for shard in range(2)]
    files = [(folder / name).open("wb") for name in names]
    for number in range(5 * NUM_CLASSES):
        label = number % NUM_CLASSES
        encoded = io.BytesIO()
        Image.fromarray(_picture(label, number)).save(encoded, "JPEG", quality=95)
        example = schema.make_example(f"i{number}", encoded.getvalue(), 24, 24, label)
        record_files.write_record(files[number // 10], example)
    for file in files:
        file.close()
    return folder
