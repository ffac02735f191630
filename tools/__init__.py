"""Command-line tools: absl flags in, one artefact out. Each runs as `delf_tf NAME`."""

from delf_tf import quiet_tensorflow

# Here, because a tool's module imports TensorFlow before any of its own lines runs.
quiet_tensorflow.install()
