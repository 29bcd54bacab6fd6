"""Images and masks that a task reads, as fixes of the user change them."""

import contextlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import SourceError
from ssem_dask.field.affine import apply_affine, invert_affine, localise_affine
from ssem_dask.field.grid import Grid
from ssem_dask.fixes.drawn_regions import inside_polygons, near_lines
from ssem_dask.fixes.fix_records import Line
from ssem_dask.fixes.section_fixes import SectionFixes, VolumeFixes, placed_map
from ssem_dask.geometry.box import Box
from ssem_dask.registration.damage import DAMAGED, TEAR, TISSUE
from ssem_dask.stages.job import Job
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.types import AnyArray, BoolArray, Float64Array, ShapeYX


def excluded_sections(fixes: VolumeFixes, *, count: int) -> BoolArray:
    """Return which of `count` sections take no part."""
    return np.array([fixes.of(z).excluded for z in range(count)], dtype=bool)


def inverted_sections(fixes: VolumeFixes, *, count: int) -> BoolArray:
    """Return which of `count` sections the user says to have inverted contrast."""
    return np.array([fixes.of(z).inverted for z in range(count)], dtype=bool)


def placed_maps(job: Job, fixes: VolumeFixes) -> Float64Array:
    """Return the maps `(Z, 2, 3)` aligned → source that fixes give; NaN for sections without one."""
    maps = np.full((job.shape[0], 2, 3), np.nan)
    for z, fix in fixes.sections.items():
        placed = placed_map(fix, shape_yx=job.shape_yx)
        if placed is not None:
            maps[z] = placed
    return maps


def reading_order(fixes: VolumeFixes) -> dict[int, int]:
    """Return the section that is read in the place of each section that has changed places with another."""
    return {z: fix.other for z, fix in fixes.sections.items() if fix.other is not None}


def fitted_rows(job: Job, sections: Iterable[int], fixes: VolumeFixes | None) -> list[int]:
    """Return where the fit has what it found in the images that are read as some sections.

    Args:
        job: the run.
        sections: z.
        fixes: fixes that say which sections have changed places; None: those of the fit.
    """
    fitted = reading_order(job.fitted_fixes)
    order = fitted if fixes is None else reading_order(fixes)
    # Sections change places in pairs, so an order is its own inverse.
    return [fitted.get(order.get(z, z), order.get(z, z)) for z in sections]


def white_of(dtype: np.dtype[Any]) -> float:
    """Return the value that black becomes if contrast is inverted."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 0.0


def has_codes(fix: SectionFixes) -> bool:
    """Return whether fixes mask any part of a section."""
    return fix.excluded or bool(fix.masks or fix.mask_files or fix.splits)


def fix_codes(job: Job, fix: SectionFixes, *, box: Box, affine: Float64Array) -> Tensor:
    """Return the mask codes `(y, x)` uint8 of a section's fixes in a box of the aligned section.

    Args:
        job: the run.
        fix: what holds for the section.
        box: where, in aligned pixels of `box.mip`; its z is not used.
        affine: `(2, 3)` aligned → source, mip-0 px.
    """
    if fix.excluded:
        return torch.full(box.shape_yx, DAMAGED, dtype=torch.uint8)
    codes = np.full(box.shape_yx, TISSUE, dtype=np.uint8)
    pixel = float(2**box.mip)
    back, corner = invert_affine(affine), np.asarray(box.start_yx) * pixel

    def aligned(lines: tuple[Line, ...]) -> list[Line]:
        # An affine map takes straight lines to straight lines, so it is enough to map their ends.
        points = (np.asarray(line) @ back[:, :2].T + back[:, 2] - corner for line in lines)
        return [tuple((float(y), float(x)) for y, x in each) for each in points]

    codes[inside_polygons(aligned(fix.masks), shape=box.shape_yx, pixel=pixel)] = DAMAGED
    for path in fix.mask_files:
        codes[_file_codes(path, box=box, affine=affine, shape_yx=job.shape_yx)] = DAMAGED
    codes[near_lines(aligned(fix.splits), shape=box.shape_yx, pixel=pixel)] = TEAR
    return torch.from_numpy(codes)


def read_mask_image(path: str, shape_yx: ShapeYX) -> BoolArray:
    """Return the pixels `(y, x)` of an image file that show no tissue.

    Args:
        path: of the image.
        shape_yx: section, mip-0 px; the image has this shape, or a coarser one of the same proportions.

    Raises:
        SourceError: the file cannot be read, or does not have that shape.
    """
    try:
        with contextlib.closing(open_any_format(path)) as opened:
            shape = opened.info.shape
            image = opened.read(z_start=0, z_stop=1, y_start=0, y_stop=shape[1])[0] if shape[0] == 1 else None
    except SourceError as error:
        raise SourceError(f"Fixes: mask {path}: {error}") from error
    rows, columns = (n / wanted for n, wanted in zip(shape[1:], shape_yx, strict=True))
    # Rounding up may add a pixel to either side.
    fits = abs(rows * shape_yx[1] - columns * shape_yx[1]) <= 1 and rows <= 1 and columns <= 1
    if image is None or not fits:
        raise SourceError(
            f"Fixes: mask {path}: has shape {shape}, but one section of {shape_yx[0]} × {shape_yx[1]} px is wanted, or "
            "the same at a coarser scale; export it in that shape."
        )
    return np.asarray(image != 0)


@lru_cache(maxsize=4)
def _cached_mask(path: str, shape_yx: ShapeYX) -> BoolArray:
    return read_mask_image(path, shape_yx)


def _file_codes(path: str, *, box: Box, affine: Float64Array, shape_yx: ShapeYX) -> AnyArray:
    image = _cached_mask(path, shape_yx)
    grid = Grid.of_box(box)
    local = localise_affine(affine, target=grid.origin, source=(0.0, 0.0))
    where = apply_affine(local, grid.relative_to(grid.origin).positions())
    sizes = [extent / count for extent, count in zip(shape_yx, image.shape, strict=True)]
    y, x = ((where[axis] / sizes[axis]).floor().long().numpy() for axis in (0, 1))
    inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
    return np.asarray(inside & image[y.clip(0, image.shape[0] - 1), x.clip(0, image.shape[1] - 1)])
