"""Rankings to metrics; no dataset is known here; no TensorFlow. Layer 1."""
