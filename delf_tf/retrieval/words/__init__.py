"""Search by visual words: codebooks and ASMK."""
