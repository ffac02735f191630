"""Models to servable files. Layer 3."""

# What a SavedModel's original signature gives; here, so that tools know it without TensorFlow.
KINDS = ("local", "local_and_global", "global")
