"""Models to servable files. Layer 3."""
