"""A page and a JSON API over a collection; no TensorFlow of its own. Layer 3."""
