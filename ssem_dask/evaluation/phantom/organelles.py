"""Mitochondria, vesicles and microtubules, drawn into the transmission of one tile.

Mitochondria are dark, striped by cristae, and run along z for several sections. Vesicles are rings of about 40 nm
that belong to one section and are faintly visible in the next. Microtubules are small dots that persist over many
sections.
"""

from typing import TypeVar

import numpy as np

from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.evaluation.phantom.randomness import UInt32Array, uniform
from ssem_dask.evaluation.phantom.tile import SIZE, Tissue
from ssem_dask.types import Float32Array, Float64Array

FloatArray = TypeVar("FloatArray", Float32Array, Float64Array)

_MITOCHONDRION_STREAM, _VESICLE_STREAM, _TUBULE_STREAM = 400, 420, 440
_MITOCHONDRION_DEPTH_NM = 1500.0
"""Range of depth in which a neurite may have one mitochondrion."""
_MAX_PATCH_PX = 7
"""Largest extent on each side of a vesicle's centre, so that a vesicle stays within the margin of a tile."""


def bump(distance: FloatArray) -> FloatArray:
    """Return the biweight (1 - d²)², which is 0 for d ≥ 1."""
    t = 1.0 - distance * distance
    np.maximum(t, 0.0, out=t)
    t *= t
    return t


def draw_mitochondria(config: PhantomConfig, tissue: Tissue, image: Float32Array) -> None:
    """Draw the mitochondria of a tile's neurites into `image` `(SIZE, SIZE)`, in place."""
    neurites, depth = tissue.neurites, tissue.z * config.section_thickness
    seed, owner = config.seed, neurites.owner
    phase = uniform(seed, _MITOCHONDRION_STREAM, owner)
    epoch = np.floor(depth / _MITOCHONDRION_DEPTH_NM + phase).astype(np.int64)

    def chance(number: int) -> Float32Array:
        return uniform(seed, _MITOCHONDRION_STREAM + 1 + number, owner, epoch)

    room = neurites.radius + 60.0
    middle = (epoch + 0.5 + 0.2 * (chance(0) - 0.5) - phase) * _MITOCHONDRION_DEPTH_NM
    half_depth = 250.0 + 350.0 * chance(1)
    share = 1.0 - ((depth - middle) / half_depth) ** 2
    radius = (np.clip(0.75 * room, 60.0, 230.0) * (0.7 + 0.3 * chance(2)) * np.sqrt(np.maximum(share, 0.0))).astype(
        np.float32
    )
    alive = (share > 0.05) & (room > 95.0) & (chance(3) < 0.62)
    offset = 0.35 * np.maximum(room, 0.0) * (chance(4) - 0.5)
    angle = 2 * np.pi * chance(5) + depth / 1500.0
    half = radius * 1.2 * chance(6)
    along = neurites.half_length * (2 * chance(7) - 1) * 0.7
    y = neurites.y - tissue.centre[0] + offset * np.sin(angle) + along * neurites.direction_y
    x = neurites.x - tissue.centre[1] + offset * np.cos(angle) + along * neurites.direction_x
    row, column = pixel_of_position(tissue.outline_y, tissue.outline_x, y=y, x=x, pixel_size=config.pixel_size)
    # Outlines are wavy by up to about 150 nm, so the centre is uncertain by as much.
    extent = (half + radius + 200.0) / config.pixel_size
    alive &= (row > -extent) & (row < SIZE + extent) & (column > -extent) & (column < SIZE + extent)
    for i in np.flatnonzero(alive):
        window = tuple(
            slice(max(0, int(middle - extent[i])), min(SIZE, int(middle + extent[i]) + 1))
            for middle in (row[i], column[i])
        )
        capsule = np.array([y[i], x[i], angle[i], half[i], radius[i]], dtype=np.float32)
        _draw_mitochondrion(tissue, image, index=int(i), capsule=capsule, window=(window[0], window[1]))


def _draw_mitochondrion(
    tissue: Tissue, image: Float32Array, *, index: int, capsule: Float32Array, window: tuple[slice, slice]
) -> None:
    """Draw one mitochondrion, capsule (y, x, angle, half length, radius) in nm, into a window of the tile."""
    y, x, angle, half, radius = capsule
    rows, columns = window
    dy, dx = tissue.outline_y[rows, columns] - y, tissue.outline_x[rows, columns] - x
    ty, tx = np.sin(angle), np.cos(angle)
    along = dy * ty + dx * tx
    across = dx * ty - dy * tx
    beyond = along - np.clip(along, -half, half)
    distance = np.sqrt(across * across + beyond * beyond) - radius
    same = tissue.neurites.label[tissue.winner[rows, columns]] == tissue.neurites.label[index]
    inside = np.where(same, np.maximum(distance, 19.0 - tissue.border[rows, columns]), 1e3)
    if inside.min() > 0:
        return
    part, shade = image[rows, columns], tissue.shade[rows, columns]
    wave = 12.0 * np.sin(along / 43.0 + index) + 5.0 * np.sin(along / 19.0 - across / 60.0) + 22.0 * shade
    phase = (across + wave) / np.float32(31.0 + 3.0 * np.sin(angle * 7))
    stripe = np.abs(phase - np.floor(phase) - 0.5) * 2.0  # triangle wave
    # Some of the grain underneath shows through.
    matrix = 0.36 - 0.20 * np.clip(2.2 * stripe - 1.1, 0.0, 1.0) * (1.0 + 0.5 * shade) + 0.35 * (part - 0.62)
    edge = np.clip(-inside / 6.0 + 0.5, 0.0, 1.0)
    coat = bump((inside + 9.0) / 11.0)
    part += edge * (matrix - 0.25 * coat - part)


def draw_vesicles(config: PhantomConfig, tissue: Tissue, image: Float32Array) -> None:
    """Draw vesicles and microtubules into `image` `(SIZE, SIZE)`, in place, by multiplication."""
    depth = tissue.z * config.section_thickness
    for layer, visible in ((tissue.z, 1.0), (tissue.z - 1, 0.45)):
        _draw_dots(config, tissue, image, _VESICLE_STREAM, layer=layer, period=52.0, ring=15.0, strength=0.62 * visible)
    tubule_layer = int(np.floor(depth / 600.0))
    _draw_dots(config, tissue, image, _TUBULE_STREAM, layer=tubule_layer, period=75.0, ring=0.0, strength=0.4)


def _draw_dots(
    config: PhantomConfig,
    tissue: Tissue,
    image: Float32Array,
    stream: int,
    *,
    layer: int,
    period: float,
    ring: float,
    strength: float,
) -> None:
    """Draw one jittered lattice of rings (or dots: ring 0), denser in some neurites than in others."""
    low = [float(a.min()) + c for a, c in zip((tissue.y, tissue.x), tissue.centre, strict=True)]
    high = [float(a.max()) + c for a, c in zip((tissue.y, tissue.x), tissue.centre, strict=True)]
    rows, columns = (
        a.reshape(-1)
        for a in np.meshgrid(
            *(np.arange(int(a // period) - 1, int(b // period) + 2) for a, b in zip(low, high, strict=True)),
            indexing="ij",
        )
    )
    keys = (layer, rows, columns)
    y = (rows + uniform(config.seed, stream, *keys).astype(np.float64)) * period - tissue.centre[0]
    x = (columns + uniform(config.seed, stream + 1, *keys).astype(np.float64)) * period - tissue.centre[1]
    pixel = config.pixel_size
    py, px = pixel_of_position(tissue.y, tissue.x, y=y, x=x, pixel_size=pixel)
    i, j = np.floor(py).astype(np.int64), np.floor(px).astype(np.int64)
    visible = (i >= 0) & (i < SIZE) & (j >= 0) & (j < SIZE)
    i, j, py, px = i[visible], j[visible], py[visible], px[visible]
    rows, columns = rows[visible], columns[visible]
    pick = uniform(config.seed, stream + 2, layer, rows, columns)
    density = _density(config, stream, tissue.neurites.label)[tissue.winner[i, j]]
    kept = (pick < density * (0.8 + 0.6 * tissue.shade[i, j])) & (tissue.border[i, j] > 26.0)
    i, j, py, px = i[kept], j[kept], py[kept], px[kept]
    rows, columns = rows[kept], columns[kept]
    size = (0.75 + 0.5 * uniform(config.seed, stream + 3, layer, rows, columns))[:, None, None]
    wall = 10.0 if ring else 16.0
    patch = min(_MAX_PATCH_PX, int(np.ceil((1.25 * ring + wall) / pixel)))
    reach = np.arange(-patch, patch + 1)
    dy = ((i[:, None] + reach + 0.5 - py[:, None]) * pixel).astype(np.float32)[:, :, None]
    dx = ((j[:, None] + reach + 0.5 - px[:, None]) * pixel).astype(np.float32)[:, None, :]
    distance = np.sqrt(dy * dy + dx * dx)
    ink = np.float32(strength * min(config.texture, 1.5))
    factor = 1.0 - ink * bump((distance - ring * size) / np.float32(wall))
    r, c = i[:, None] + reach, j[:, None] + reach
    index = np.clip(r, 0, SIZE - 1)[:, :, None] * SIZE + np.clip(c, 0, SIZE - 1)[:, None, :]
    inside = ((r >= 0) & (r < SIZE))[:, :, None] & ((c >= 0) & (c < SIZE))[:, None, :]
    np.minimum.at(image.reshape(-1), index[inside], (image.reshape(-1)[index] * factor)[inside])


def _density(config: PhantomConfig, stream: int, label: UInt32Array) -> Float32Array:
    """Return the share of occupied lattice cells per neurite."""
    kind = uniform(config.seed, stream + 5, label)
    share = uniform(config.seed, stream + 6, label)
    if stream == _VESICLE_STREAM:
        return np.where(kind < 0.35, 0.25 + 0.45 * share, 0.06 * share).astype(np.float32)
    return np.where(kind < 0.6, 0.15 + 0.35 * share, 0.03).astype(np.float32)


def pixel_of_position(
    map_y: Float32Array, map_x: Float32Array, *, y: Float64Array, x: Float64Array, pixel_size: float
) -> tuple[Float64Array, Float64Array]:
    """Return the position on the tile, in px, of a reference position; accurate to about 0.5 px.

    Args:
        map_y, map_x: reference position of each pixel of the tile, nm.
        y, x: reference positions `(n,)`, nm, relative to the tile's centre.
        pixel_size: nm.
    """
    row, column = y / pixel_size + SIZE // 2 + 0.5, x / pixel_size + SIZE // 2 + 0.5
    for _ in range(3):
        i = np.clip(np.floor(row).astype(np.int64), 0, SIZE - 1)
        j = np.clip(np.floor(column).astype(np.int64), 0, SIZE - 1)
        row = i + 0.5 + (y - map_y[i, j]) / pixel_size
        column = j + 0.5 + (x - map_x[i, j]) / pixel_size
    return row, column
