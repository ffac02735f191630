"""The networks: Keras models that turn RGB batches into descriptors. Layer 1."""
