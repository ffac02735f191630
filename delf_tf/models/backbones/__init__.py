"""Backbones: layers that turn normalised images into maps, named by their stride."""
