"""Local features and global descriptors in the files of other programs."""
