"""Grid of the chunks or shards in which an array is stored."""

import math
from collections.abc import Iterator

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import ShapeZYX


def chunk_boxes(shape: ShapeZYX, *, chunk: ShapeZYX, mip: int = 0) -> Iterator[Box]:
    """Yield boxes that tile `shape` in units of `chunk`, z slowest; the last ones are clipped to the shape."""
    along_z, along_y, along_x = (chunk_spans(n, chunk=c) for n, c in zip(shape, chunk, strict=True))
    for z, z_stop in along_z:
        for y, y_stop in along_y:
            for x, x_stop in along_x:
                yield Box((z, y, x), (z_stop, y_stop, x_stop), mip)


def chunk_spans(extent: int, *, chunk: int) -> list[tuple[int, int]]:
    """List start and stop of the chunks along one axis; the last is clipped to the extent."""
    return [(start, min(start + chunk, extent)) for start in range(0, extent, chunk)]


def chunk_count(shape: ShapeZYX, *, chunk: ShapeZYX) -> int:
    """Count the boxes that `chunk_boxes` yields."""
    return math.prod(ceil_div(n, c) for n, c in zip(shape, chunk, strict=True))


def round_up(value: int, *, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `value`."""
    return ceil_div(value, multiple) * multiple
