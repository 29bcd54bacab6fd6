"""A plugin of napari: a run as layers, and a panel that leads to the places that need a look. Needs the extra `napari`.

Nothing that `ssem-dask fix` does is written here: the panel starts its page in the browser.
"""
