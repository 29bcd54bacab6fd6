"""Reports and pictures of an alignment, and its viewer."""
