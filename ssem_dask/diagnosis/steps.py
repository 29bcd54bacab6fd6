"""Steps in a displacement field: lines along which one side of a section was displaced against the other.

An elastic distortion bends a section here one way, there another; a fold, a crack or a seam displaces one whole side.
So the difference across a line is taken in cells along it, and a step is what most of these cells agree on.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ssem_dask.types import AnyArray, Float64Array, ShapeYX

_ANGLES = 12
"""Directions of lines."""
_NEAR, _REACH = 0.3, 1.0
"""Nearest and farthest distance from the line, in units of the reach, of the nodes that are compared."""
_CELL = 0.75
"""Length of a cell along the line, in units of the reach."""
_LEAST_CELLS = 4
_LEAST_KNOWN = 0.6
"""Share of the cells of a line that must be known."""
_AGREEING = 0.2
"""Quantile over the cells: four of five are displaced by more."""
_LEAST_NODES = 2


@dataclass(frozen=True, slots=True)
class _Line:
    nodes: NDArray[np.intp]
    """Nodes near the line, as indices of the flat grid."""
    beyond: NDArray[np.bool_]
    """Which of these are on its far side."""
    cells: NDArray[np.intp]
    """Their cells."""
    count: int


def largest_step(field: Float[AnyArray, "2 y x"], *, spacing: float, reach: float) -> float:
    """Return the largest step, px: the displacement between both sides that four of five cells along a line exceed.

    Args:
        field: displacement, px; NaN is unknown. Its affine part does not matter.
        spacing: px between nodes.
        reach: distance up to which both sides of a line are compared, px.

    Returns:
        NaN if no line has enough known nodes.
    """
    values = field.reshape(2, -1).astype(np.float64)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=0))
    if int(known.sum()) < _LEAST_CELLS**2:
        return math.nan
    rest = _without_affine(values, known, shape=field.shape[1:])
    best = math.nan
    for line in _lines((field.shape[1], field.shape[2]), max(2.0, reach / spacing)):
        usable = known[line.nodes]
        nodes, beyond, cells = line.nodes[usable], line.beyond[usable], line.cells[usable]
        counts = [np.bincount(cells[side], minlength=line.count) for side in (~beyond, beyond)]
        good = (counts[0] >= _LEAST_NODES) & (counts[1] >= _LEAST_NODES)
        if int(good.sum()) < max(_LEAST_CELLS, _LEAST_KNOWN * line.count):
            continue
        means = [
            np.stack([np.bincount(cells[side], weights=rest[c, nodes[side]], minlength=line.count) for c in range(2)])
            for side in (~beyond, beyond)
        ]
        steps = (means[1] / np.maximum(counts[1], 1) - means[0] / np.maximum(counts[0], 1))[:, good]
        middle = np.median(steps, axis=1)
        length = float(np.hypot(*middle))
        if length > 0 and not length <= best:
            step = float(np.quantile(middle @ steps / length, _AGREEING))
            best = step if math.isnan(best) else max(best, step)
    return best


def _without_affine(values: Float64Array, known: NDArray[np.bool_], *, shape: tuple[int, ...]) -> Float64Array:
    """Return the displacements without their affine part, 0 where unknown."""
    y, x = np.indices(shape).reshape(2, -1)
    terms = np.stack([y, x, np.ones(y.size)], axis=1).astype(np.float64)
    solution = np.linalg.lstsq(terms[known], values[:, known].T, rcond=None)[0]
    return np.where(known, values - (terms @ solution).T, 0.0)


@lru_cache(maxsize=8)
def _lines(shape: ShapeYX, reach: float) -> tuple[_Line, ...]:
    """List the lines of a grid, `reach` in nodes."""
    y, x = (axis - (n - 1) / 2 for axis, n in zip(np.indices(shape).astype(np.float64), shape, strict=True))
    lines = []
    for angle in np.arange(_ANGLES) * np.pi / _ANGLES:
        across = np.cos(angle) * y + np.sin(angle) * x
        along = np.cos(angle) * x - np.sin(angle) * y
        extent = (abs(np.cos(angle)) * (shape[0] - 1) + abs(np.sin(angle)) * (shape[1] - 1)) / 2 - reach
        for position in np.arange(-extent, extent + 0.01, max(1.0, reach / 3)):
            distance = (across - position).ravel()
            nodes = np.flatnonzero((np.abs(distance) > _NEAR * reach) & (np.abs(distance) <= _REACH * reach))
            if not len(nodes):
                continue
            _, cells = np.unique(np.floor(along.ravel()[nodes] / (_CELL * reach)), return_inverse=True)
            count = int(cells.max()) + 1
            if count >= _LEAST_CELLS:
                lines.append(_Line(nodes, distance[nodes] > 0, cells.astype(np.intp), count))
    return tuple(lines)
