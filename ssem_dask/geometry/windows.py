"""Windows: the unit of registration, a core that one task writes and a halo that it only reads.

Law: the cores of a tiling are disjoint and cover the volume; every read box contains its core and is in the volume.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_spans
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
        halo_before: sections and pixels read before the core; in z these are the predecessors of the core's sections.
        halo_after: sections and pixels read after it.
    """
    axes = [
        read_spans(n, core=c, before=b, after=a)
        for n, c, b, a in zip(shape, core, halo_before, halo_after, strict=True)
    ]
    for z, z_stop, z_first, z_last in axes[0]:
        for y, y_stop, y_first, y_last in axes[1]:
            for x, x_stop, x_first, x_last in axes[2]:
                yield Window(
                    core=Box((z, y, x), (z_stop, y_stop, x_stop)),
                    read=Box((z_first, y_first, x_first), (z_last, y_last, x_last)),
                )


def read_spans(extent: int, *, core: int, before: int, after: int) -> list[tuple[int, int, int, int]]:
    """List, along one axis, start and stop of each window's core, and of its read box, clipped to the extent."""
    return [
        (start, stop, max(start - before, 0), min(stop + after, extent))
        for start, stop in chunk_spans(extent, chunk=core)
    ]


def read_sizes(shape: ShapeZYX, *, core: ShapeZYX, halo_before: ShapeZYX, halo_after: ShapeZYX) -> tuple[int, int, int]:
    """Count the windows of `tile_windows`, and sum and maximise the pixels they read, without making them."""
    count, total, largest = 1, 1, 1
    for n, c, b, a in zip(shape, core, halo_before, halo_after, strict=True):
        extents = [last - first for _, _, first, last in read_spans(n, core=c, before=b, after=a)]
        count, total, largest = count * len(extents), total * sum(extents), largest * max(extents, default=0)
    return count, total, largest
