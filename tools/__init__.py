"""Command-line tools: absl flags in, one artefact out. Each runs as `delf_tf NAME`."""
