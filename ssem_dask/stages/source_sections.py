"""Read source sections: pooled to a mip, or coarse-aligned."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import SourceError
from ssem_dask.field.affine import IDENTITY, apply_affine, localise_affine
from ssem_dask.field.device import CPU
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.field.warp import sample_image
from ssem_dask.fixes.section_fixes import VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.image.pooling import pool
from ssem_dask.image.tissue import EMPTY_SIDE, tissue_mask
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.stages.fixed_sections import reading_order, white_of
from ssem_dask.stages.job import Job
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float64Array, ShapeYX

_BAND_PIXELS = 1 << 26
"""Source px read at a time when a whole section is pooled; bounds memory for sections of any size."""
_BLANK_CHECK_PX = 2048
"""Side of the square that is read at once to find out whether a volume is blank."""
_MIN_THUMBNAIL_PX = 32
"""Shorter side of a thumbnail; shorter ones show too little to be matched."""
_MARGIN = 3
"""Pixels that an interpolation reaches beyond its position."""
_MAX_OVERREAD = 1.5
"""Pixels read over pixels wanted up to which sections are read together."""


_CACHED_PIXELS = 1 << 16
"""Pixels sampled at once on a CPU."""

Reach: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Least and largest (y, x)."""
Places: TypeAlias = Callable[[slice], Tensor]
"""Positions `(2, rows, x)` float32, mip-0 px, of some rows of the sampled image; NaN is unknown."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Positions in source sections where an image per section is sampled."""

    sections: range
    """z of each section."""
    mip: int
    """Scale level that is sampled."""
    shape: ShapeYX
    """Shape (y, x) of the sampled images."""
    positions: Iterable[Places]
    """Positions per section."""
    affines: Sequence[Float64Array]
    """Map `(2, 3)` per section from positions to source positions, mip-0 px."""
    reaches: Sequence[Reach | None]
    """Bounds per section of the source positions, mip-0 px; None: nothing is known."""


def open_source(job: Job, *, fixes: VolumeFixes | None = None) -> Volume:
    """Open the run's source volume.

    Args:
        job: the run.
        fixes: fixes that say which sections have changed places; None: those of the fit.
    """
    known = job.fitted_fixes if fixes is None else fixes
    return Volume.open(job.source, like=job.info).reordered(reading_order(known))


def refuse_blank(job: Job) -> None:
    """Search for two pixels that differ, from the middle of the volume on; usually the first read finds them.

    Raises:
        SourceError: every pixel of the volume has one value.
    """
    volume = open_source(job)
    middle = job.shape[0] // 2
    values: set[int] = set()
    for z in sorted(range(job.shape[0]), key=lambda z: abs(z - middle)):
        for part in chunk_boxes((1, *job.shape[1:]), chunk=(1, _BLANK_CHECK_PX, _BLANK_CHECK_PX)):
            pixels = volume.read(part.shifted((z, 0, 0)))
            values |= {int(pixels.min()), int(pixels.max())}
            if len(values) > 1:
                return
    raise SourceError(f"{job.source}: every pixel is {values.pop()}, so there is nothing to align; check the export.")


def read_pooled_sections(volume: Volume, *, boxes: Sequence[Box], device: torch.device = CPU) -> Iterator[Tensor]:
    """Read pixels of one section each, `(y, x)` float32 at the boxes' mip, pooled by mean if it is not stored.

    Sections that follow one another are read together, since a chunk holds several. Reads in bands, so that memory
    depends on the result and not on the mip-0 pixels under it. Pixels go to the device in their stored dtype and
    are pooled there.

    Args:
        volume: source.
        boxes: of one mip, one section deep.
        device: device of the result.
    """
    for group in _neighbours(boxes):
        low = tuple(min(box.start[axis] for box in group) for axis in range(3))
        high = tuple(max(box.stop[axis] for box in group) for axis in range(3))
        common = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]), group[0].mip)
        stored = device.type == "cpu" and volume.stored_mip(common.mip) == common.mip
        # If this mip is stored, pixels become floats section by section on a CPU; a GPU takes all of them at once.
        inside = common.clipped(volume.shape_at(common.mip))
        pixels = _read(volume, inside) if stored else _pooled(volume, common, device)
        for i, box in enumerate(group):
            rows, columns = (slice(box.start[a] - low[a], box.stop[a] - low[a]) for a in (1, 2))
            part = pixels[i, rows, columns]
            yield part if isinstance(part, Tensor) else to_floats(part, device)


def _neighbours(boxes: Sequence[Box]) -> Iterator[list[Box]]:
    """Yield runs of boxes in z order without a gap, whose common box is hardly larger than they are."""
    group: list[Box] = []
    for box in boxes:
        wanted = [*group, box]
        spans = [max(b.stop[a] for b in wanted) - min(b.start[a] for b in wanted) for a in (1, 2)]
        in_order = not group or box.start[0] == group[-1].stop[0]
        if group and not (in_order and len(wanted) * math.prod(spans) <= _MAX_OVERREAD * sum(b.size for b in wanted)):
            yield group
            wanted = [box]
        group = wanted
    if group:
        yield group


def _pooled(volume: Volume, box: Box, device: torch.device) -> Tensor:
    """Read a box `(z, y, x)` float32, pooled by mean from the coarsest stored mip that is fine enough."""
    shape = volume.shape_at(0)
    stored = volume.stored_mip(box.mip)
    factor = 2 ** (box.mip - stored)
    extent = (shape[0], *shape_at_mip((shape[1], shape[2]), mip=stored))
    line = box.shape[0] * box.shape[2] * factor
    rows = max(1, _BAND_PIXELS // max(1, line * factor))
    bands: list[Tensor] = []
    for y in range(box.start[1], box.stop[1], rows):
        part = Box((box.start[0], y, box.start[2]), (box.stop[0], min(y + rows, box.stop[1]), box.stop[2]), box.mip)
        bands += _pooled_parts(_read(volume, part.at_mip(stored).clipped(extent)), factor, device)
    return torch.cat(bands, dim=1) if bands else torch.zeros(box.shape, device=device)


def _pooled_parts(pixels: AnyArray, factor: int, device: torch.device) -> Iterator[Tensor]:
    """Yield pooled pixels `(z, y, x)`; on a CPU few rows at a time, so that only the result is a large array."""
    rows = pixels.shape[1]
    if device.type == "cpu" and factor > 1:
        rows = max(1, _CACHED_PIXELS // max(1, pixels.shape[0] * pixels.shape[2] * factor)) * factor
    for y in range(0, pixels.shape[1], rows):
        yield pool(to_floats(pixels[:, y : y + rows], device), factor)


def _read(volume: Volume, box: Box) -> AnyArray:
    """Read the pixels of a box; if that fails, the error names the first section that cannot be read."""
    try:
        return volume.read(box)
    except SourceError:
        for z in box.sections:
            volume.read(Box((z, *box.start_yx), (z + 1, *box.stop[1:]), box.mip))
        raise


def to_floats(pixels: AnyArray, device: torch.device) -> Tensor:
    """Return float32 pixels on the device; bytes are moved before they are converted."""
    if device.type == "cpu" or pixels.dtype != np.uint8:
        return torch.from_numpy(pixels.astype(np.float32)).to(device)
    return torch.from_numpy(pixels).to(device).float()


def thumbnail_mip(job: Job) -> int:
    """Return the mip at which a section's longer side fits the thumbnail; a finer one if the shorter would be thin."""
    thin = math.floor(math.log2(min(job.shape[1:]) / _MIN_THUMBNAIL_PX))
    return max(0, min(math.ceil(math.log2(max(job.shape[1:]) / job.coarse.thumbnail)), thin))


def read_thumbnails(volume: Volume, *, sections: range, mip: int) -> Iterator[Tensor]:
    """Read whole sections `(y, x)` at a mip."""
    shape = volume.shape_at(0)
    y, x = shape_at_mip((shape[1], shape[2]), mip=mip)
    yield from read_pooled_sections(volume, boxes=[Box((z, 0, 0), (z + 1, y, x), mip) for z in sections])


def read_coarse_section(
    job: Job,
    volume: Volume,
    *,
    z: int,
    mip: int,
    is_inverted: bool,
    thumbnail: Tensor | None = None,
) -> CoarseSection:
    """Return a section prepared for the coarse search.

    Args:
        job: the run.
        volume: its source.
        z: section.
        mip: of thumbnails.
        is_inverted: whether its contrast is inverted, so that it can be compared with others after inverting it.
        thumbnail: the thumbnail if it was read already.
    """
    if thumbnail is None:
        (thumbnail,) = read_thumbnails(volume, sections=range(z, z + 1), mip=mip)
    mask = tissue_mask(thumbnail)
    if is_inverted:
        thumbnail = torch.where(mask, white_of(volume.info.dtype) - thumbnail, thumbnail)
    return CoarseSection(thumbnail, mask=mask, config=job.coarse)


def read_aligned(
    volume: Volume, *, z: int, box: Box, affine: Float64Array, empty_side: int = EMPTY_SIDE
) -> tuple[Tensor, Tensor]:
    """Read one section, see `read_aligned_sections`."""
    return next(
        read_aligned_sections(volume, sections=range(z, z + 1), box=box, affines=affine[None], empty_side=empty_side)
    )


def read_aligned_sections(
    volume: Volume,
    *,
    sections: range,
    box: Box,
    affines: Float64Array,
    inverted: Sequence[bool] | AnyArray | None = None,
    parts: Mapping[int, PiecewiseAffine] | None = None,
    empty_side: int = EMPTY_SIDE,
    device: torch.device = CPU,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read a box of sections that are aligned by their coarse affines.

    Args:
        volume: source.
        sections: z of each.
        box: position in aligned pixels of `box.mip`; its z is not used.
        affines: `(z, 2, 3)` aligned → source, mip-0 px.
        inverted: sections whose contrast is inverted, so that they can be compared with the others; None: no section.
        parts: parts of the broken sections, by z; None: no section is broken.
        empty_side: see `tissue_mask`.
        device: where sections are resampled.

    Yields:
        Image `(y, x)` float32, and mask `(y, x)`: False outside the source and in empty space.
    """
    target = Grid.of_box(box)
    positions = target.relative_to(target.origin).positions(device)
    maps = [localise_affine(affine, target=target.origin, source=(0.0, 0.0)) for affine in affines]
    # An affine map reaches farthest at the corners.
    h, w = (n * target.spacing for n in target.shape)
    corners = torch.tensor([[0.0, 0.0, h, h], [0.0, w, 0.0, w]], dtype=torch.float64)
    reaches: list[Reach | None] = []
    places: list[Places] = []
    for i, (z, affine) in enumerate(zip(sections, maps, strict=True)):
        broken = (parts or {}).get(z)
        reached = apply_affine(affine, corners)
        if broken is None:
            places.append(partial(_rows, positions))
        else:
            found = broken.to_source(apply_affine(affine, positions.double())).float()
            reached, maps[i] = found[:, torch.isfinite(found).all(dim=0)], IDENTITY
            places.append(partial(_rows, found))
        reaches.append((reached.amin(dim=1).tolist(), reached.amax(dim=1).tolist()) if reached.numel() else None)
    sampling = Sampling(
        sections=sections,
        mip=box.mip,
        shape=target.shape,
        positions=places,
        affines=maps,
        reaches=reaches,
    )
    aligned = sample_sections(volume, sampling, kind="bicubic", empty_side=empty_side, device=device)
    white = white_of(volume.info.dtype)
    for (image, known), invert in zip(aligned, repeat(False) if inverted is None else inverted, strict=False):
        yield (torch.where(known, white - image, torch.zeros_like(image)) if invert else image), known


def sample_sections(
    volume: Volume, sampling: Sampling, *, kind: Interpolation, empty_side: int = EMPTY_SIDE, device: torch.device = CPU
) -> Iterator[tuple[Tensor, Tensor]]:
    """Sample sections at source positions; read no more than the positions can reach.

    Args:
        volume: source.
        sampling: sections and positions. Affines are applied relative to the box that is read, to stay precise (C9).
        kind: interpolation.
        empty_side: see `tissue_mask`.
        device: device of the positions and of the result.

    Yields:
        Image `(y, x)` float32, 0 if unknown, and mask `(y, x)`, False there and in empty space.
    """
    boxes = [
        None if reach is None else _box_of(volume, z, sampling.mip, reach)
        for z, reach in zip(sampling.sections, sampling.reaches, strict=True)
    ]
    pixels = read_pooled_sections(volume, boxes=[box for box in boxes if box is not None], device=device)
    for box, positions, affine in zip(boxes, sampling.positions, sampling.affines, strict=True):
        image = torch.zeros(sampling.shape, device=device)
        known = torch.zeros(sampling.shape, dtype=torch.bool, device=device)
        if box is not None:
            section = next(pixels)[None]
            grid = Grid.of_box(box)
            local_grid = grid.relative_to(grid.origin)
            local = localise_affine(affine, target=(0.0, 0.0), source=grid.origin)
            mask = tissue_mask(section[0], side=empty_side)
            tissue = None if bool(mask.all()) else mask  # a mask that hides nothing only costs time
            for rows in _bands(sampling.shape, device):
                where = apply_affine(local, positions(rows))
                values, known[rows] = sample_image(section, grid=local_grid, positions=where, kind=kind, tissue=tissue)
                image[rows] = values[0]
        yield image, known


def _rows(positions: Tensor, rows: slice) -> Tensor:
    return positions[:, rows]


def _bands(shape: ShapeYX, device: torch.device) -> Iterator[slice]:
    """Yield the rows that are sampled at once: on a CPU as many as its caches hold; on a GPU all."""
    rows = shape[0] if device.type != "cpu" else max(1, _CACHED_PIXELS // max(1, shape[1]))
    for start in range(0, shape[0], max(1, rows)):
        yield slice(start, min(start + rows, shape[0]))


def _box_of(volume: Volume, z: int, mip: int, reach: Reach) -> Box | None:
    """Return the pixels of a section that interpolation between two positions can need; None if it has none."""
    scale = 2**mip
    shape = volume.shape_at(0)
    extent = shape_at_mip((shape[1], shape[2]), mip=mip)
    start = [min(math.floor(low / scale) - _MARGIN, n) for low, n in zip(reach[0], extent, strict=True)]
    stop = [math.ceil(high / scale) + _MARGIN for high in reach[1]]
    box = Box((z, start[0], start[1]), (z + 1, max(stop[0], start[0]), max(stop[1], start[1])), mip)
    box = box.clipped((shape[0], *extent))
    return box if box.size else None
