"""The second stage: geometric verification of a ranking's head, and the order it gives."""
