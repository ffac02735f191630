"""A folder of photographs to search in, from Python and by the page of `serve`."""
