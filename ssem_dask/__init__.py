"""Alignment of serial-section electron microscopy volumes.

`align(source, output)` aligns a volume with defaults; `open_alignment(url)` uses the result: fields as arrays, warping
of single sections, mapping of points; `warp_volume(...)` applies it to another channel or a segmentation of any size;
`import_volume(...)` brings images of other formats into OME-Zarr; `export_volume(...)` writes OME-Zarr 0.4 or
neuroglancer-precomputed.
Everything else is importable from its own module.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssem_dask.alignment import Alignment, open_alignment
    from ssem_dask.exporting import export_volume
    from ssem_dask.generations import Summary
    from ssem_dask.importing import import_volume
    from ssem_dask.pipeline import align
    from ssem_dask.warping import warp_volume

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
    "Alignment": "ssem_dask.alignment",
    "Summary": "ssem_dask.generations",
    "align": "ssem_dask.pipeline",
    "export_volume": "ssem_dask.exporting",
    "import_volume": "ssem_dask.importing",
    "open_alignment": "ssem_dask.alignment",
    "warp_volume": "ssem_dask.warping",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that a module deep in the package does not load all of it."""
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ssem_dask' has no attribute {name!r}")
