"""Losses of training, and the heads that own class centres."""
