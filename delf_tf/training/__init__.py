"""Weights from TFRecords: strategy, trainer, schedules, optimizers. Layer 2."""
