"""Writers of other formats, for `ssem-dask export`."""
