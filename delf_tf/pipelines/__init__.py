"""From configs to results: what tools and Python users call. Layer 4."""
