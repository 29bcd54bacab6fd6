"""Alignment of serial-section electron microscopy volumes.

`align(source, output)` aligns a volume with default settings; `open_alignment(url)` uses the result: fields as arrays,
warping of single sections, mapping of points; `warp_volume(...)` applies it to another channel or a segmentation of any
size; `import_volume(...)` converts images of other formats to OME-Zarr; `export_volume(...)` writes OME-Zarr 0.4 or
neuroglancer-precomputed.

These names are the public Python interface; `__init__.pyi` lists where they come from. They are imported on first use,
so that `import ssem_dask` takes no time.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
