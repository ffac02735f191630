"""Weights: our own files, those of other programs, the published and the shipped ones."""
