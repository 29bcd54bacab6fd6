"""Target of an export: all levels of a volume in another format, written in boxes of whole files.

Laws: a box of `unit(mip)`, clipped at the end of the volume, consists of whole files, so two tasks never write the same
file, and writing a box again replaces its files. The file that readers open first is written last (`finish`): an export
is complete or it is no volume.
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
"""Bytes that a task copies, unless one chunk is larger."""
MAX_CHUNK_BYTES = 1 << 29
"""Largest chunk: Blosc accepts at most 2 GiB, and a task holds a chunk several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(ABC):
    """A volume to be written in another format."""

    FORM: ClassVar[str]
    """Name of the format."""

    url: str
    info: VolumeInfo
    mips: int
    """Number of levels."""
    chunk: ShapeZYX
    """Extent of a chunk, at every level."""
    depth: int
    """Sections in a chunk of the source: a task copies that many at once if the format leaves the choice."""
    labels: bool
    """The values are ids of a segmentation."""

    @abstractmethod
    def check(self) -> None:
        """Refuse a volume that the format cannot hold; touches nothing.

        Raises:
            ConfigError: the chunk cannot be written.
            SourceError: the source has values of another type.
            OutputError: the format cannot be written to such a location.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Create everything that `write` needs, unless it exists; OutputError if the location cannot be written."""

    @abstractmethod
    def reopen(self) -> None:
        """Delete the metadata that makes it a volume, before values change; do nothing if there is none."""

    @abstractmethod
    def unit(self, mip: int) -> ShapeZYX:
        """Return the extent of what one task writes as a whole."""

    @abstractmethod
    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """Write values of whole units; OutputError if the location cannot be written.

        Args:
            values: (z, y, x), or (c, z, y, x) of all channels if the volume has channels.
            start: first (z, y, x).
            mip: level.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write the metadata that makes it a volume, after all values."""

    @property
    def leading(self) -> tuple[int, ...]:
        """Extent of the axes before z: of c if the volume has channels."""
        return (len(self.info.channels),) if self.info.channels else ()

    def shape_at(self, mip: int) -> ShapeZYX:
        """Return (z, y, x) of a level."""
        return (self.info.shape[0], *shape_at_mip(self.info.shape[1:], mip=mip))

    def check_chunk(self) -> None:
        """Raise ConfigError if the chunk is empty, or too large for a worker."""
        if min(self.chunk) < 1:
            raise ConfigError(f"export: a chunk of {self.chunk} is empty; give at least 1 px along z, y and x.")
        size = math.prod(self.chunk) * self.info.dtype.itemsize
        if size > MAX_CHUNK_BYTES:
            raise ConfigError(
                f"export: a chunk of {self.chunk} {self.info.dtype} has {size:,} bytes, but at most "
                f"{MAX_CHUNK_BYTES:,} are written; give a smaller one."
            )


def grown(chunk: ShapeZYX, *, shape: ShapeZYX, dtype: np.dtype[Any], depth: int) -> ShapeZYX:
    """Grow a chunk to about `UNIT_BYTES`, by doubling: first to `depth` sections, then in y and x, then in z.

    Args:
        chunk: extent of a chunk; the result is a power of two times that along each axis.
        shape: shape of the level, beyond which nothing is doubled.
        dtype: type of the values.
        depth: sections that one read of the source covers anyway.
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
