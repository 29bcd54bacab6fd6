"""Warped pixels of a box: the part of the field that it needs, and the source pixels that it points to.

Law: everything here is in px of the volume that is warped, which may be coarser or finer than the run's source.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.border import extrapolated
from ssem_dask.field.device import CPU
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation, sample_known, sample_lattice
from ssem_dask.geometry.box import Box
from ssem_dask.stages.source_sections import Places, Reach, Sampling, sample_sections
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

NODE_MARGIN = 1
"""Nodes beyond a box that bilinear interpolation of the field needs."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The part of a section's field that a box needs."""

    values: Tensor
    """Displacements `(2, y, x)`, mip-0 px; NaN is unknown."""
    grid: Grid

    def on_pixels(self, box: Box) -> Tensor:
        """Return the field `(2, y, x)` at the mip-0 pixels of the box, bilinear between the nodes."""
        pixels = Grid.of_box(box)
        return sample_known(
            self.values,
            grid=self.grid.relative_to(pixels.origin),
            positions=pixels.relative_to(pixels.origin).positions(),
        )

    def reach(self, box: Box) -> Reach | None:
        """Return the least and largest source position of the pixels of the box; None if nothing is known."""
        known = self.values[:, torch.isfinite(self.values).all(dim=0)]
        if not known.shape[1]:
            return None
        # A bilinear value is between those of the nodes.
        low, high = known.amin(dim=1).tolist(), known.amax(dim=1).tolist()
        start, stop = box.start_yx, box.stop[1:]
        return [n + least for n, least in zip(start, low, strict=True)], [
            n + most for n, most in zip(stop, high, strict=True)
        ]


def read_nodes(url: str, *, sections: range, box: Box, spacing: int, scale: float = 1.0) -> list[Nodes]:
    """Read the fields of some sections over a box at once, continued up to the border of the section.

    Args:
        url: of the fields.
        sections: z of each.
        box: at mip 0 of the volume that is warped; its z is not used.
        spacing: mip-0 px of the run between nodes.
        scale: mip-0 px of the run per px of the volume. Positions and displacements become px of the volume.
    """
    array = open_array(url, mode="r")
    step = spacing / scale
    low = [max(0, math.floor(start / step) - NODE_MARGIN) for start in box.start_yx]
    high = [math.ceil(stop / step) + NODE_MARGIN for stop in box.stop[1:]]
    values = np.asarray(array[sections.start : sections.stop, :, low[0] : high[0], low[1] : high[1]])
    if scale != 1:
        values = values / np.float32(scale)
    grid = Grid((values.shape[2], values.shape[3]), step, (low[0] * step, low[1] * step))
    (top, bottom), (left, right) = (
        (first == 0, last >= count) for first, last, count in zip(low, high, array.shape[2:], strict=True)
    )
    fields, grid = extrapolated(
        torch.from_numpy(np.ascontiguousarray(values)), grid=grid, sides=((top, bottom), (left, right))
    )
    return [Nodes(field, grid) for field in fields]


def warped_sections(
    source: Volume,
    *,
    fields: Sequence[Nodes],
    sections: range,
    box: Box,
    kind: Interpolation,
    device: torch.device = CPU,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the warped pixels `(y, x)` of a box of some sections, and the masks of known pixels.

    Args:
        source: volume that is warped.
        fields: fields of the sections.
        sections: z of each section.
        box: position in the aligned volume at mip 0; its z is not used.
        kind: interpolation of the pixels.
        device: device that samples them.
    """
    pixels = Grid.of_box(box)
    back = IDENTITY.copy()
    back[:, 2] = pixels.origin
    here = pixels.relative_to(pixels.origin).positions(device)

    def places(nodes: Nodes) -> Places:
        values = nodes.values.to(device)
        grid = nodes.grid.relative_to(pixels.origin)
        if not bool(torch.isfinite(values).all()):
            return lambda rows: here[:, rows] + sample_known(values, grid=grid, positions=here[:, rows])
        y, x = here[0, :, 0], here[1, 0]
        return lambda rows: sample_lattice(values, grid=grid, rows=y[rows], columns=x).add_(here[:, rows])

    sampling = Sampling(
        sections=sections,
        mip=0,
        shape=pixels.shape,
        positions=map(places, fields),
        affines=[back] * len(fields),
        reaches=[nodes.reach(box) for nodes in fields],
    )
    yield from sample_sections(source, sampling, kind=kind, device=device)


def warped_labels(source: Volume, *, field: Tensor, z: int, box: Box) -> AnyArray:
    """Return the ids `(y, x)` of a box of one section, each from the source pixel that it points into (C3); 0: unknown.

    Ids never pass through floating point, which would change those above 2**24.
    """
    grid = Grid.of_box(box)
    ids = np.zeros(box.shape_yx, dtype=source.info.dtype)
    y, x = (grid.relative_to(grid.origin).positions() + field).double().numpy()
    known = np.isfinite(y) & np.isfinite(x)
    rows = np.floor(np.where(known, y, -1.0)).astype(np.int64) + box.start[1]
    columns = np.floor(np.where(known, x, -1.0)).astype(np.int64) + box.start[2]
    height, width = source.info.shape[1:]
    known &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if not known.any():
        return ids
    rows, columns = rows[known], columns[known]
    low, high = (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)
    part = Box((z, int(low[0]), int(low[1])), (z + 1, int(high[0]), int(high[1])))
    ids[known] = source.read(part)[0][rows - low[0], columns - low[1]]
    return ids


def to_dtype(image: Tensor, dtype: np.dtype[Any]) -> AnyArray:
    """Round to the nearest value that an integer dtype can hold."""
    limits = np.iinfo(dtype)
    rounded = image.round().clamp(limits.min, limits.max)
    if dtype == np.uint8:
        return rounded.to(torch.uint8).cpu().numpy()  # converted before it is moved
    return rounded.cpu().numpy().astype(dtype)


def change_contrast(image: Tensor, *, gain: float, offset: float, dtype: np.dtype[Any]) -> int:
    """Multiply pixels by a gain and add an offset, in place; return how many then exceed the dtype.

    Pixels that are 0 stay 0, since they are unknown, or padding of the source. Pixels of unsigned types that are not 0
    do not become 0.

    Args:
        image: `(y, x)` float32.
        gain: factor.
        offset: grey values.
        dtype: integer dtype that the pixels are written in.
    """
    limits = np.iinfo(dtype)
    image.clamp_(float(limits.min), float(limits.max))  # interpolation may overshoot
    known = image.round() != 0
    # 0 is unknown, so nothing that is known becomes 0.
    low, high = max(float(limits.min), 1.0) if dtype.kind == "u" else float(limits.min), float(limits.max)
    changed = image * gain + offset
    clipped = known & ((changed < low - 0.5) | (changed > high + 0.5))
    image.copy_(torch.where(known, changed.clamp(low, high), image))
    return int(clipped.sum())
