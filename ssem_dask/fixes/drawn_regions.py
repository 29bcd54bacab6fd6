"""Polygons and polylines on a grid of pixels."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

from ssem_dask.fixes.fix_records import Line
from ssem_dask.types import BoolArray, ShapeYX


def inside_polygons(polygons: Sequence[Line], *, shape: ShapeYX, pixel: float = 1.0) -> Bool[BoolArray, "y x"]:
    """Return the pixels whose centre is inside any of some polygons (even-odd rule for each polygon by itself).

    Args:
        polygons: points (y, x), mip-0 px; the last one is joined to the first.
        shape: (y, x) of the grid, from the origin of the section.
        pixel: mip-0 px per pixel.
    """
    inside = np.zeros(shape, dtype=bool)
    columns = (np.arange(shape[1]) + 0.5) * pixel
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        ends = np.roll(points, -1, axis=0)
        low, high = np.floor(points[:, 0].min() / pixel), np.ceil(points[:, 0].max() / pixel)
        for row in range(max(0, int(low)), min(shape[0], int(high))):
            y = (row + 0.5) * pixel
            crossed = (points[:, 0] <= y) != (ends[:, 0] <= y)
            if not crossed.any():
                continue
            (y0, x0), (y1, x1) = points[crossed].T, ends[crossed].T
            crossings = np.sort(x0 + (y - y0) * (x1 - x0) / (y1 - y0))
            inside[row] |= np.searchsorted(crossings, columns) % 2 == 1
    return inside


def near_lines(
    lines: Sequence[Line], *, shape: ShapeYX, pixel: float = 1.0, width: float = 0.0
) -> Bool[BoolArray, "y x"]:
    """Return the pixels that polylines cross, so that no path of pixels joined by their sides passes through a line.

    Args:
        lines: points (y, x), mip-0 px.
        shape: (y, x) of the grid, from the origin of the section.
        pixel: mip-0 px per pixel.
        width: of the lines, mip-0 px.
    """
    near = np.zeros(shape, dtype=bool)
    radius = max(width / 2, 0.75 * pixel)
    for line in lines:
        points = np.asarray(line, dtype=np.float64)
        for start, end in pairwise(points):
            low = np.floor((np.minimum(start, end) - radius) / pixel).astype(int)
            high = np.ceil((np.maximum(start, end) + radius) / pixel).astype(int)
            low, high = np.clip(low, 0, shape), np.clip(high, 0, shape)
            if (low >= high).any():
                continue
            y = ((np.arange(low[0], high[0]) + 0.5) * pixel)[:, None]
            x = ((np.arange(low[1], high[1]) + 0.5) * pixel)[None]
            step = end - start
            length = float(step @ step)
            along = 0.0 if length == 0 else ((y - start[0]) * step[0] + (x - start[1]) * step[1]) / length
            along = np.clip(along, 0.0, 1.0)
            distance = np.hypot(y - start[0] - along * step[0], x - start[1] - along * step[1])
            near[low[0] : high[0], low[1] : high[1]] |= distance <= radius
    return near
