"""Features on disk: the store, the original's files, exchange formats. Layer 1."""
