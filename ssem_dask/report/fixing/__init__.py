"""The page of `ssem-dask fix`: see what is wrong with a section, say it, have it solved again."""
