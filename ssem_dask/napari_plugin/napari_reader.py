"""Reader of napari: a run that is dropped onto its window, or named on its command line, opens as layers."""

from collections.abc import Callable, Sequence

from ssem_dask.errors import SsemDaskError
from ssem_dask.napari_plugin.run_layers import LayerData, read_run_view
from ssem_dask.storage.run_group import read_run


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return what reads a run; None if something else is at the path, which other plugins may read."""
    if not isinstance(path, str):
        return None
    try:
        read_run(path)
    except SsemDaskError:
        return None
    return lambda run: read_run_view(str(run)).layers
