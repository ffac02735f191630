"""Search by global descriptors: indexes, whitening, expansion, SuperGlobal."""
