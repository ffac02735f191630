"""Every benchmark and its peers. Layer 5."""
