"""TFRecords of training images: their schema, files, builder and lookup."""
