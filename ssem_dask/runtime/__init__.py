"""Where tasks run: one protocol, a serial executor and a Dask one, and what the world is told meanwhile."""
