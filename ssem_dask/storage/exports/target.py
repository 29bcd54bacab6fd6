"""What is written in another format: all levels of a volume, a box of whole files at a time.

Laws: a box of `unit(mip)`, or one that ends with the volume, is made of whole files, so two tasks never write the same
one, and writing it again replaces them. What readers open first is written last (`finish`): an export is complete or it
is no volume.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ssem_dask.errors import ConfigError
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import AnyArray, ShapeZYX

UNIT_BYTES = 1 << 25
"""Values that a task copies, unless one chunk is larger."""
MAX_CHUNK_BYTES = 1 << 29
"""Blosc takes no more than 2 GiB, and a task holds a chunk several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(ABC):
    """A volume in another format, to be written."""

    FORM: ClassVar[str]
    """Name of the format."""

    url: str
    info: VolumeInfo
    mips: int
    """Number of levels."""
    chunk: ShapeZYX
    """Extent of a chunk, at every level."""
    depth: int
    """Sections in a chunk of the source: so many are copied at once, where that is a matter of choice."""
    labels: bool
    """The values are ids of a segmentation."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what the format cannot hold; touches nothing.

        Raises:
            ConfigError: the chunk cannot be written.
            SourceError: the source has values of another type.
            OutputError: the format cannot be written to such a place.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make what `write` needs; does nothing where it is there. OutputError where the place cannot be written."""

    @abstractmethod
    def unit(self, mip: int) -> ShapeZYX:
        """Extent of what one task writes as a whole."""

    @abstractmethod
    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """Write values (z, y, x) of whole units; OutputError where the place cannot be written."""

    @abstractmethod
    def finish(self) -> None:
        """Write what makes a volume of it, once all values are there."""

    def shape_at(self, mip: int) -> ShapeZYX:
        """(z, y, x) of a level."""
        return (self.info.shape[0], *shape_at_mip(self.info.shape[1:], mip=mip))

    def check_chunk(self) -> None:
        """ConfigError where the chunk is empty, or larger than a worker may be asked to hold."""
        if min(self.chunk) < 1:
            raise ConfigError(f"export: a chunk of {self.chunk} is empty; give at least 1 px along z, y and x.")
        size = math.prod(self.chunk) * self.info.dtype.itemsize
        if size > MAX_CHUNK_BYTES:
            raise ConfigError(
                f"export: a chunk of {self.chunk} {self.info.dtype} has {size:,} bytes, but at most "
                f"{MAX_CHUNK_BYTES:,} are written; give a smaller one."
            )


def grown(chunk: ShapeZYX, *, shape: ShapeZYX, dtype: np.dtype[Any], depth: int) -> ShapeZYX:
    """Whole chunks of about `UNIT_BYTES`, doubled first to `depth` sections, then in y and x, then in z.

    Args:
        chunk: extent of a chunk; the result is a power of two of them along each axis.
        shape: of the level, beyond which nothing is doubled.
        dtype: of the values.
        depth: sections that are read at once anyway.
    """
    unit = list(chunk)
    while math.prod(unit) * dtype.itemsize * 2 <= UNIT_BYTES:
        wide = [axis for axis in (2, 1) if unit[axis] < shape[axis]]
        if unit[0] < min(depth, shape[0]) or (unit[0] < shape[0] and not wide):
            unit[0] *= 2
        elif wide:
            unit[min(wide, key=lambda axis: unit[axis])] *= 2
        else:
            break
    return unit[0], unit[1], unit[2]
