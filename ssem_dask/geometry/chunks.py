"""The grid of chunks or shards that an array is stored in."""

from collections.abc import Iterator

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import ShapeZYX


def chunk_boxes(shape: ShapeZYX, *, chunk: ShapeZYX, mip: int = 0) -> Iterator[Box]:
    """Boxes that tile `shape` in units of `chunk`, z slowest; the last ones are clipped to the shape."""
    counts = tuple(ceil_div(n, c) for n, c in zip(shape, chunk, strict=True))
    for z in range(counts[0]):
        for y in range(counts[1]):
            for x in range(counts[2]):
                start = (z * chunk[0], y * chunk[1], x * chunk[2])
                stop = (start[0] + chunk[0], start[1] + chunk[1], start[2] + chunk[2])
                yield Box(start, stop, mip).clipped(shape)


def round_up(value: int, *, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return ceil_div(value, multiple) * multiple
