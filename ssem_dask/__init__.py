"""Alignment of serial-section electron microscopy volumes.

`align(source, output)` aligns a volume with default settings, `plan`, `status` and `rerun` say and repeat, and `append`
extends; sources are paths, URLs or arrays. `open_alignment(run)` uses the result: fields and pixels as arrays, warping
of other volumes, mapping of points. `warp` and `export` write volumes of any size, `import_volume` reads other formats
and arrays. `report`, `view`, `evaluate` and `compare` look at runs. `register_pair(fixed, moving)` registers two
images.

These names are the public Python interface; `__init__.pyi` lists where they come from. They are imported on first use,
so that `import ssem_dask` takes no time.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
