"""Windows: the unit of registration, a core that one task writes and a halo that it only reads.

Law: the cores of a tiling are disjoint and cover the volume; every read box contains its core and lies in the volume.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.types import ShapeZYX


@dataclass(frozen=True, slots=True)
class Window:
    """A core (written by exactly one task) and the box that is read to compute it."""

    core: Box
    read: Box


def tile_windows(shape: ShapeZYX, *, core: ShapeZYX, halo_before: ShapeZYX, halo_after: ShapeZYX) -> Iterator[Window]:
    """Tile a volume by windows.

    Args:
        shape: (z, y, x) of the volume, mip 0.
        core: (z, y, x) of a core.
        halo_before: sections and pixels read before the core; in z these are the neighbours that pairs look back to.
        halo_after: sections and pixels read after it.
    """
    for box in chunk_boxes(shape, chunk=core):
        yield Window(core=box, read=box.grown(before=halo_before, after=halo_after).clipped(shape))
