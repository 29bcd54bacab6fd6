"""Alignment of serial-section electron microscopy volumes.

`align(source, output)` aligns a volume with defaults; `open_alignment(url)` uses the result: fields as arrays, warping
of single sections, mapping of points; `warp_volume(...)` applies it to another channel or a segmentation of any size;
`import_volume(...)` brings images of other formats into OME-Zarr; `export_volume(...)` writes OME-Zarr 0.4 or
neuroglancer-precomputed.
Everything else is importable from its own module.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssem_dask.driver.pipeline import align
    from ssem_dask.driver.run_status import Summary
    from ssem_dask.volumes.alignment import Alignment, open_alignment
    from ssem_dask.volumes.exporting import export_volume
    from ssem_dask.volumes.importing import import_volume
    from ssem_dask.volumes.warping import warp_volume

__version__ = "0.1.0"
__all__ = [
    "Alignment",
    "Summary",
    "__version__",
    "align",
    "export_volume",
    "import_volume",
    "open_alignment",
    "warp_volume",
]

_HOME = {
    "Alignment": "ssem_dask.volumes.alignment",
    "Summary": "ssem_dask.driver.run_status",
    "align": "ssem_dask.driver.pipeline",
    "export_volume": "ssem_dask.volumes.exporting",
    "import_volume": "ssem_dask.volumes.importing",
    "open_alignment": "ssem_dask.volumes.alignment",
    "warp_volume": "ssem_dask.volumes.warping",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that a module deep in the package does not load all of it."""
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ssem_dask' has no attribute {name!r}")
