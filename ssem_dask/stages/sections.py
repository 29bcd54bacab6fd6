"""Reading source sections: pooled to a mip, and as the coarse alignment sees them."""

import math

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import SourceError
from ssem_dask.field.affine import affine_seen_from, apply_affine
from ssem_dask.field.device import CPU
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Kind
from ssem_dask.field.warp import sample_image
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.registration.masks import EMPTY_SIDE, tissue_mask
from ssem_dask.registration.pyramid import pool
from ssem_dask.stages.job import Job
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float64Array

_BAND_PIXELS = 1 << 26
"""Source px read at a time where a whole section is pooled: bounds memory whatever the section's size."""
_LOOK = 2048
"""Side, px, of what is read at once to see whether a volume is blank."""
_LEAST_THUMBNAIL = 32
"""Shorter side of a thumbnail, px: below it nothing can be told apart."""
_MARGIN = 3
"""Pixels that an interpolation reaches beyond its position."""


def open_source(job: Job) -> Volume:
    """Open the run's source volume."""
    return Volume.open(job.source, pixel_size=job.info.pixel_size, section_thickness=job.info.section_thickness)


def refuse_blank(job: Job) -> None:
    """Look for a pixel that differs from another, from the middle of the volume on; usually the first read finds it.

    Raises:
        SourceError: every pixel of the volume has one value.
    """
    volume = open_source(job)
    middle = job.shape[0] // 2
    values: set[int] = set()
    for z in sorted(range(job.shape[0]), key=lambda z: abs(z - middle)):
        for part in chunk_boxes((1, *job.shape[1:]), chunk=(1, _LOOK, _LOOK)):
            pixels = volume.read(part.shifted((z, 0, 0)))
            values |= {int(pixels.min()), int(pixels.max())}
            if len(values) > 1:
                return
    raise SourceError(f"{job.source}: every pixel is {values.pop()}, so there is nothing to align; check the export.")


def read_pooled(volume: Volume, *, box: Box, device: torch.device = CPU) -> Tensor:
    """Read one section's pixels `(y, x)` float32 at `box.mip`, pooled by mean where that mip is not stored.

    Reads in bands, so that memory depends on the result and not on the mip-0 pixels under it. Pixels go to the device
    as they are stored and are pooled there.
    """
    shape = volume.shape_at(0)
    stored = volume.stored_mip(box.mip)
    factor = 2 ** (box.mip - stored)
    width = box.shape[2] * factor
    rows = max(1, _BAND_PIXELS // max(1, width * factor))
    bands = []
    for y in range(box.start[1], box.stop[1], rows):
        part = Box((box.start[0], y, box.start[2]), (box.stop[0], min(y + rows, box.stop[1]), box.stop[2]), box.mip)
        extent = (shape[0], *shape_at_mip((shape[1], shape[2]), mip=stored))
        pixels = volume.read(part.at_mip(stored).clipped(extent))[0]
        bands.append(pool(to_floats(pixels, device), factor))
    return torch.cat(bands) if bands else torch.zeros(box.shape_yx, device=device)


def to_floats(pixels: AnyArray, device: torch.device) -> Tensor:
    """float32 on the device; bytes are moved before they are converted."""
    if device.type == "cpu" or pixels.dtype != np.uint8:
        return torch.from_numpy(pixels.astype(np.float32)).to(device)
    return torch.from_numpy(pixels).to(device).float()


def thumbnail_mip(job: Job) -> int:
    """The mip at which a section's longer side is at most the thumbnail's; finer where the shorter would be thin."""
    thin = math.floor(math.log2(min(job.shape[1:]) / _LEAST_THUMBNAIL))
    return max(0, min(math.ceil(math.log2(max(job.shape[1:]) / job.coarse.thumbnail)), thin))


def read_thumbnail(volume: Volume, *, z: int, mip: int, device: torch.device = CPU) -> Tensor:
    """A whole section `(y, x)` at `mip`."""
    shape = volume.shape_at(0)
    y, x = shape_at_mip((shape[1], shape[2]), mip=mip)
    return read_pooled(volume, box=Box((z, 0, 0), (z + 1, y, x), mip), device=device)


def read_aligned(
    volume: Volume,
    *,
    z: int,
    box: Box,
    affine: Float64Array,
    empty_side: int = EMPTY_SIDE,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor]:
    """What lies in `box` of a section that is aligned by its coarse affine.

    Args:
        volume: source.
        z: section.
        box: where, in aligned pixels of `box.mip`; its z is not used.
        affine: `(2, 3)` aligned → source, mip-0 px.
        empty_side: see `tissue_mask`.
        device: where the section is resampled.

    Returns:
        Image `(y, x)` float32, and mask `(y, x)`: False outside the source and in empty space.
    """
    target = Grid.of_box(box)
    positions = target.relative_to(target.origin).positions(device)
    return read_at(
        volume,
        z=z,
        mip=box.mip,
        positions=positions,
        affine=affine_seen_from(affine, target=target.origin, source=(0.0, 0.0)),
        kind="bicubic",
        empty_side=empty_side,
    )


def read_at(
    volume: Volume,
    *,
    z: int,
    mip: int,
    positions: Tensor,
    affine: Float64Array,
    kind: Kind,
    empty_side: int = EMPTY_SIDE,
) -> tuple[Tensor, Tensor]:
    """Sample one section at the source positions `affine(positions)`; reads no more than their bounding box.

    Args:
        volume: source.
        z: section.
        mip: scale level that is sampled.
        positions: `(2, y, x)` float32; NaN is unknown. The section is sampled on the device where they lie.
        affine: `(2, 3)` to source positions, mip-0 px; applied relative to the box read, to stay precise (C9).
        kind: interpolation.
        empty_side: see `tissue_mask`.

    Returns:
        Image `(y, x)` float32, 0 where unknown, and mask `(y, x)`, False there and in empty space.
    """
    device = positions.device
    blank = positions.new_zeros(positions.shape[1:]), torch.zeros(positions.shape[1:], dtype=torch.bool, device=device)
    reached = apply_affine(affine, positions).flatten(1)
    known = torch.isfinite(reached).all(dim=0)
    infinite = torch.full_like(reached, torch.inf)
    if reached.shape[1] == 0:
        return blank
    bounds = torch.cat(
        [torch.where(known, reached, infinite).amin(dim=1), torch.where(known, reached, -infinite).amax(dim=1)]
    ).tolist()
    if math.isinf(bounds[0]):
        return blank
    scale = 2**mip
    low, high = [math.floor(b / scale) for b in bounds[:2]], [math.ceil(b / scale) for b in bounds[2:]]
    extent = shape_at_mip((volume.shape_at(0)[1], volume.shape_at(0)[2]), mip=mip)
    start = (z, min(low[0] - _MARGIN, extent[0]), min(low[1] - _MARGIN, extent[1]))
    stop = (z + 1, max(high[0] + _MARGIN, start[1]), max(high[1] + _MARGIN, start[2]))
    box = Box(start, stop, mip).clipped((volume.shape_at(0)[0], *extent))
    if box.size == 0:
        return blank
    pixels = read_pooled(volume, box=box, device=device)
    grid = Grid.of_box(box)
    local = apply_affine(affine_seen_from(affine, target=(0.0, 0.0), source=grid.origin), positions)
    image, inside = sample_image(pixels[None], grid=grid.relative_to(grid.origin), positions=local, kind=kind)
    tissue, _ = sample_image(
        tissue_mask(pixels, side=empty_side).float()[None],
        grid=grid.relative_to(grid.origin),
        positions=local,
        kind="nearest",
    )
    return image[0], inside & (tissue[0] > 0)
