"""Metrics and rankings to plots and HTML; no TensorFlow. Layer 3."""
