"""Two images: nearest neighbours and geometric verification; no TensorFlow. Layer 1."""
