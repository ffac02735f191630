"""A store that follows its images: which it holds now, what came when, and what is to be done."""
