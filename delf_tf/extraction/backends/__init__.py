"""Engines that run networks, and networks as files that they read."""
