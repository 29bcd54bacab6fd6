"""The public functions, as they are used from Python: paths and arrays in, results that notebooks show."""
