"""Networks that compare two images by their local features."""
