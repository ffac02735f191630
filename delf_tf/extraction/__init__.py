"""Images to features: pyramid, model, selection, and the engine that drives them. Layer 2."""
