"""A level of an image whose pixels are read, or warped, when napari asks for them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.types import AnyArray, ShapeZYX


class LazyLevel:
    """Looks like an array `(z, y, x)` to napari; only what it shows is read, section by section."""

    def __init__(self, shape: ShapeZYX, dtype: np.dtype[Any], *, mip: int, read: Callable[[Box], AnyArray]) -> None:
        """Describe a level.

        Args:
            shape: of the level.
            dtype: of its values.
            mip: of the level.
            read: returns the pixels `(y, x)` of a box of that mip that is one section deep.
        """
        self.shape, self.dtype = shape, dtype
        self._mip, self._read = mip, read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Any) -> AnyArray:
        """Read a part; the index consists of integers, slices and `...`."""
        given = index if isinstance(index, tuple) else (index,)
        if Ellipsis in given:
            at = given.index(Ellipsis)
            filling = (slice(None),) * (self.ndim + 1 - len(given))
            given = (*given[:at], *filling, *given[at + 1 :])
        parts = [*given, *(slice(None),) * (self.ndim - len(given))]
        ranges = [
            range(*part.indices(n)) if isinstance(part, slice) else range(n)[int(part) : int(part) % n + 1]
            for part, n in zip(parts, self.shape, strict=True)
        ]
        if any(part.step < 1 for part in ranges):
            raise IndexError("a level of an image is read in ascending order")
        if any(len(part) == 0 for part in ranges):
            values = np.zeros(tuple(map(len, ranges)), dtype=self.dtype)
        else:
            sections, *sides = ranges
            (top, bottom), (left, right) = ((side[0], side[-1] + 1) for side in sides)
            steps = tuple(slice(None, None, side.step) for side in sides)
            boxes = (Box((z, top, left), (z + 1, bottom, right), self._mip) for z in sections)
            values = np.stack([self._read(box)[steps] for box in boxes])
        return np.asarray(values[tuple(slice(None) if isinstance(part, slice) else 0 for part in parts)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        """Read all of it."""
        del copy
        return np.asarray(self[...], dtype=dtype)
