"""Training's input: pipeline and augmentation."""
