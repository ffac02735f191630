"""Search by visual words: codebooks, ASMK, VLAD."""
