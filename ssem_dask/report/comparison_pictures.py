"""Pictures of the sections that changed most between two runs: A, B, their difference, and how far the field moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssem_dask.errors import OutputError, SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.comparison import Comparison, SectionChange
from ssem_dask.report.encode import colourise
from ssem_dask.report.field_changes import change_length, open_fields
from ssem_dask.report.intensities import intensity_limits, stretch_intensities
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.location import join
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float64Array
from ssem_dask.units import number

_SIDE_PX = 480
"""Longest side of a picture."""
_PART_PX = 4096
"""Longest side of the part of a section that is shown, mip-0 px, around the largest distance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSection:
    """A section with its pictures."""

    section: SectionChange
    pictures: tuple[tuple[str, str, NDArray[np.uint8]], ...]
    """Name, explanation and pixels (y, x) or (y, x, 3) of each."""
    problem: str = ""
    """Why there are no pictures; empty if there are."""


def draw_changes(comparison: Comparison, *, count: int) -> list[ComparedSection]:
    """Draw the `count` sections that changed most, most changed first."""
    return [_draw_section(comparison, section) for section in comparison.changed[:count]]


def write_pictures(drawn: Sequence[ComparedSection], folder: Path) -> list[Path]:
    """Write all pictures as `section-NNNNN-NAME.png`; OutputError if the folder cannot be written."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in drawn:
            for name, _, pixels in entry.pictures:
                path = folder / f"section-{entry.section.z:05d}-{name}.png"
                Image.fromarray(pixels).save(path)
                written.append(path)
    except OSError as error:
        raise OutputError(f"Pictures {folder}: cannot be written ({error.strerror}); give another folder.") from error
    return written


def _draw_section(comparison: Comparison, section: SectionChange) -> ComparedSection:
    try:
        images = _read_images(comparison, section)
        length, where = _read_length(comparison, section)
    except SsemDaskError as error:
        return ComparedSection(section=section, pictures=(), problem=str(error))
    a, b = images
    known = [image[image != 0] for image in images]
    low, high = intensity_limits(np.concatenate(known))
    grey = [stretch_intensities(image, low=low, high=high) for image in (a, b)]
    both = (a != 0) & (b != 0)
    # 0 is unknown; there is no difference where one of the pictures is empty, but a gap.
    difference = np.where(both, np.abs(grey[0].astype(np.int16) - grey[1]), 0).astype(np.uint8)
    longest = float(np.nanmax(length)) if np.isfinite(length).any() else math.nan
    colours = colourise(length / max(longest, 1e-9) if math.isfinite(longest) else length)
    size = grey[0].shape[1], grey[0].shape[0]
    enlarged = np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST))
    return ComparedSection(
        section=section,
        pictures=(
            ("a", f"A, aligned; {where}", grey[0]),
            ("b", "B, at the same place", grey[1]),
            ("difference", "difference of the two pictures, black where they are equal", difference),
            ("distance", f"distance between A and B, dark 0 to light {number(longest)} px; grey is unknown", enlarged),
        ),
    )


def _part(section: SectionChange, shape: tuple[int, int]) -> Box:
    """Return the box (mip 0) of A's aligned section that is shown."""
    middle = section.position if all(map(math.isfinite, section.position)) else (shape[0] / 2, shape[1] / 2)
    height, width = (min(n, _PART_PX) for n in shape)
    y, x = (
        min(max(0, round(centre) - side // 2), n - side)
        for centre, side, n in zip(middle, (height, width), shape, strict=True)
    )
    return Box((section.z, y, x), (section.z + 1, y + height, x + width))


def _mip_of(box: Box) -> int:
    return max(0, math.ceil(math.log2(max(box.shape_yx) / _SIDE_PX)))


def _read_images(comparison: Comparison, section: SectionChange) -> tuple[AnyArray, AnyArray]:
    volumes = [_open_aligned(run) for run in (comparison.a, comparison.b)]
    box = _part(section, volumes[0].info.shape[1:])
    mip = _mip_of(box)
    shift = [round(value / 2**mip) for value in comparison.shift_px]
    pictures = []
    for volume, moved in zip(volumes, ((0, 0), shift), strict=True):
        stored = volume.stored_mip(mip)
        part = box.at_mip(stored).clipped(volume.shape_at(stored))
        step = 2 ** (mip - stored)
        image = volume.read(part)[0][::step, ::step]
        # B shows at p what A shows at p + shift.
        pictures.append(_moved(image, moved))
    if not all(picture.any() for picture in pictures):
        raise _NoPictureError("One of the runs shows nothing here; it is not rendered yet, or the section is blank.")
    return pictures[0], pictures[1]


def _moved(image: AnyArray, by: Sequence[int]) -> AnyArray:
    """Return an image displaced by whole pixels (y, x); 0 where it shows nothing."""
    moved = np.zeros_like(image)
    taken, placed = [], []
    for distance, n in zip(by, image.shape, strict=True):
        taken.append(slice(max(0, -distance), max(0, min(n, n - distance))))
        placed.append(slice(max(0, distance), max(0, min(n, n + distance))))
    moved[tuple(placed)] = image[tuple(taken)]
    return moved


def _open_aligned(run: str) -> Volume:
    url = join(run, ALIGNED)
    if not is_node(url):
        raise _NoPictureError(f"{run} has no aligned volume yet.")
    return Volume.open(url)


def _read_length(comparison: Comparison, section: SectionChange) -> tuple[Float64Array, str]:
    a, b = open_fields(comparison.a), open_fields(comparison.b)
    box = _part(section, a.shape[1:])
    rows, columns = (
        slice(start // a.spacing, min(n, ceil_div(stop, a.spacing)))
        for start, stop, n in zip(box.start_yx, box.stop[1:], a.nodes, strict=True)
    )
    where = f"y {box.start[1]:,}–{box.stop[1]:,}, x {box.start[2]:,}–{box.stop[2]:,} px, mip {_mip_of(box)}"
    length = change_length(a, b, z=section.z, rows=rows, columns=columns, shift=comparison.shift_px)
    return length, where


class _NoPictureError(SsemDaskError):
    """There is nothing to show, for an expected reason."""
