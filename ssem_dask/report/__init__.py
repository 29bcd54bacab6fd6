"""Reports, comparisons and viewers of runs.

The public function that writes a report has the name of this package. So the package can be called like it:

    >>> import ssem_dask
    >>> ssem_dask.report("aligned.zarr", "report.html").name
    'report.html'
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """A package that is called as `ssem_dask.api.results.report`.

    Importing any module of it makes it the attribute `report` of `ssem_dask`, in place of the function.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        # By name: the layer of the function is above this one.
        return importlib.import_module("ssem_dask.api.results").report(*arguments, **options)


sys.modules[__name__].__class__ = _Package
