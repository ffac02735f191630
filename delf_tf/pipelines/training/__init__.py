"""Training as a config says: of networks, and of similarities of local features."""
