"""Two logical CPUs, so that strategies over several devices run in these tests."""

from __future__ import annotations

import tensorflow as tf


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
