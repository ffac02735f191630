"""One image against many: indexes, expansion, re-ranking; no TensorFlow. Layer 2."""
