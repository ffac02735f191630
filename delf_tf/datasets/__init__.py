"""Images and their names; TFRecords and their schema. Layer 1."""
