"""The fixed tiles in which a phantom is generated, so that overlapping chunks are identical to the bit.

A tile is `CORE` px wide, on a grid that starts at the volume's origin, and is computed with a margin. A chunk is cut
out of whole tiles, so no pixel ever depends on the requested box.
"""

from dataclasses import dataclass

import numpy as np

from ssem_dask.evaluation.phantom.motion import motion_nm
from ssem_dask.evaluation.phantom.neurites import Neurites, neurites_near, partition
from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.evaluation.phantom.randomness import scattered_planes
from ssem_dask.types import Float32Array, Float64Array

CORE = 256
MARGIN = 8
SIZE = CORE + 2 * MARGIN
_BLOCK_PX = 16
_NODE_PX = 8
"""Pixels between the nodes of noises that follow the tissue; their finest scale is 70 nm."""

_OUTLINE_STREAM = 300
_WAVES_NM = (
    (50.0, 330.0, 380.0),
    (20.0, 130.0, 220.0),
    (7.0, 70.0, 120.0),
)
"""Waviness of outlines: root mean square, knot distance in the plane, knot distance along z."""
_SHADE_STREAM = 310


@dataclass(frozen=True, slots=True)
class Tissue:
    """The tissue under one tile with its margin; arrays `(SIZE, SIZE)`, lengths in nm."""

    z: int
    start: tuple[int, int]
    """First pixel (y, x) of the tile, margin included."""
    y: Float32Array
    x: Float32Array
    """Position in the reference tissue, relative to `centre`."""
    outline_y: Float32Array
    outline_x: Float32Array
    """Position with the waviness of outlines added: the coordinates in which neurites and mitochondria are round."""
    centre: Float64Array
    neurites: Neurites
    winner: np.ndarray
    """Index of the neurite."""
    border: Float32Array
    """Distance to the membrane."""
    shade: Float32Array
    """Smooth noise of unit variance, about half a micrometre wide."""


def tissue_of_tile(config: PhantomConfig, *, z: int, tile: tuple[int, int]) -> Tissue:
    """Lay out the tissue of section z under tile (row, column)."""
    start = (tile[0] * CORE - MARGIN, tile[1] * CORE - MARGIN)
    pixel, depth = config.pixel_size, z * config.section_thickness
    py, px = ((s + 0.5 + np.arange(SIZE + 1, dtype=np.float64)) * pixel for s in start)
    centre = np.array([py[SIZE // 2], px[SIZE // 2]])
    motion = motion_nm(config, z=z, y=py, x=px)
    y = motion[0] + (py - centre[0]).astype(np.float32)[:, None]
    x = motion[1] + (px - centre[1]).astype(np.float32)[None, :]

    ny, nx = y[::_NODE_PX, ::_NODE_PX] + centre[0], x[::_NODE_PX, ::_NODE_PX] + centre[1]
    y, x = y[:SIZE, :SIZE], x[:SIZE, :SIZE]
    changed = depth * config.shape_change
    matrix = _linear_matrix()

    def noises(streams: tuple[int, ...], *, at: float, period: float, z_period: float) -> Float32Array:
        at_nodes = scattered_planes(config.seed, streams, y=ny, x=nx, z=at, period=period, z_period=z_period)
        return np.asarray(matrix @ at_nodes @ matrix.T, dtype=np.float32)

    outline_y, outline_x = y, x
    for number, (size, period, z_period) in enumerate(_WAVES_NM):
        wave = noises(
            (_OUTLINE_STREAM + 2 * number, _OUTLINE_STREAM + 2 * number + 1),
            at=changed,
            period=period,
            z_period=z_period,
        )
        wave *= np.float32(size)
        outline_y, outline_x = outline_y + wave[0], outline_x + wave[1]
    low = np.array([outline_y.min(), outline_x.min()], dtype=np.float64) + centre
    high = np.array([outline_y.max(), outline_x.max()], dtype=np.float64) + centre
    neurites = neurites_near(config, z=changed, low=low, high=high)
    winner, border = partition(neurites, y=_to_blocks(outline_y), x=_to_blocks(outline_x), centre=centre)
    return Tissue(
        z=z,
        start=start,
        y=y,
        x=x,
        outline_y=outline_y,
        outline_x=outline_x,
        centre=centre,
        neurites=neurites,
        winner=_from_blocks(winner),
        border=_straightened(_from_blocks(border), pixel_size=pixel),
        shade=noises((_SHADE_STREAM,), at=depth, period=450.0, z_period=110.0)[0],
    )


def _straightened(border: Float32Array, *, pixel_size: float) -> Float32Array:
    """Convert the half difference of two distances to a distance.

    Divide by its slope, which is below 1 behind a neurite that is nearer to another one. The slope is the steeper one
    of both sides, since its sign changes at the membrane itself.
    """
    square = np.zeros_like(border)
    for axis in (0, 1):
        step = np.abs(np.diff(border, axis=axis))
        pad = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
        both = np.pad(step, pad)
        steeper = np.maximum(both[:-1], both[1:]) if axis == 0 else np.maximum(both[:, :-1], both[:, 1:])
        square += steeper * steeper
    slope = np.sqrt(square) / np.float32(pixel_size)
    return np.asarray(border / np.clip(slope, 0.4, 1.0), dtype=np.float32)


def _linear_matrix() -> Float32Array:
    """Return the matrix that interpolates values linearly from the nodes of a tile's axis to its pixels."""
    position = np.arange(SIZE) / _NODE_PX
    base = np.floor(position).astype(np.int64)
    matrix = np.zeros((SIZE, SIZE // _NODE_PX + 1), dtype=np.float32)
    rows = np.arange(SIZE)
    matrix[rows, base] = 1.0 - (position - base)
    matrix[rows, base + 1] = position - base
    return matrix


def _to_blocks(image: np.ndarray) -> np.ndarray:
    n = SIZE // _BLOCK_PX
    return image.reshape(n, _BLOCK_PX, n, _BLOCK_PX).transpose(0, 2, 1, 3).reshape(n * n, _BLOCK_PX * _BLOCK_PX)


def _from_blocks(blocks: np.ndarray) -> np.ndarray:
    n = SIZE // _BLOCK_PX
    return blocks.reshape(n, n, _BLOCK_PX, _BLOCK_PX).transpose(0, 2, 1, 3).reshape(SIZE, SIZE)
