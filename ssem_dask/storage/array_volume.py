"""Volumes around arrays in memory, or around lazy ones: numpy, dask, xarray, zarr."""

from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.types import AnyArray

NAME = "array"
"""URL of a volume that has none, for messages."""


class _Level:
    """An array as a level of a volume: what is indexed is computed, and nothing else."""

    def __init__(self, array: Any, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._array, self.shape, self.dtype = array, shape, dtype
        chunks = getattr(array, "chunks", None)
        first = [c[0] if isinstance(c, tuple) else c for c in chunks] if chunks else [1, *shape[1:]]
        self.chunks = tuple(int(n) for n in first)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> AnyArray:
        return np.asarray(self._array[index])


def is_array(value: Any) -> bool:
    """Return whether a value is an array: it has a shape and a type, and can be indexed."""
    return all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))


def array_volume(array: Any, *, pixel_size: float, section_thickness: float) -> Volume:
    """Return an array (z, y, x) as a volume to read from.

    Args:
        array: numpy, dask, xarray, zarr or anything that is indexed like them.
        pixel_size: nm per pixel in y and x.
        section_thickness: nm per section.

    Raises:
        SourceError: it has other axes, or values that are no pixels.
    """
    dtype = np.dtype(array.dtype)
    shape = tuple(int(n) for n in array.shape)
    if len(shape) != 3:
        raise SourceError(f"{NAME}: its shape is {shape}, but a volume has three axes (z, y, x); select a channel.")
    if dtype.kind not in "iu":
        raise SourceError(
            f"{NAME}: its values are {dtype}, but pixels and labels are integers; scale them to uint8 or uint16."
        )
    info = VolumeInfo(
        shape=(shape[0], shape[1], shape[2]),
        dtype=dtype.newbyteorder("="),
        pixel_size=pixel_size,
        section_thickness=section_thickness,
    )
    level: Any = _Level(array, shape=shape, dtype=dtype)
    return Volume(NAME, info=info, paths=("",), levels=(level,))
