"""Pictures of a hotspot: the previous section, the section before and after its warp, and the field that warped it.

Fixed and warped come from the aligned volume; moving is the source placed by its coarse affine alone. The field is the
displacement beyond that affine: its length as colour, its direction (towards the source of the pixels, C5) as arrows.
All four show the same box of the aligned section.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssem_dask.composition.residual_motion import coarse_positions
from ssem_dask.errors import SsemDaskError
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.encode import colourise, jpeg_uri
from ssem_dask.report.hotspots import Hotspot
from ssem_dask.report.intensities import intensity_limits, stretch_intensities
from ssem_dask.report.report_data import ReportData
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.source_sections import read_aligned
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fields import open_coarse, open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float64Array, ShapeYX

_LEAST_PX = 0.05
"""Displacement below which there is nothing to draw."""
_MAX_SIDE_PX = 256
_ARROWS = 8
"""Arrows along the longer side."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the four pictures."""

    name: str
    uri: str
    """`data:` URI; empty if there is no picture."""
    note: str
    """Caption, or why there is no picture."""
    arrows: tuple[tuple[float, float, float, float], ...] = ()
    """(x1, y1, x2, y2) as shares of the picture."""


def draw_hotspot(data: ReportData, hotspot: Hotspot) -> list[Picture]:
    """Return the four pictures of a hotspot; one that cannot be read is empty and says why."""
    z = hotspot.z
    box = data.window_box(z=z, row=hotspot.row, column=hotspot.column)
    mip = 0
    while max(box.at_mip(mip).shape_yx) > _MAX_SIDE_PX:
        mip += 1
    small = box.at_mip(mip)
    readers: dict[str, tuple[Callable[[], AnyArray], str]] = {
        "fixed": (lambda: _read_aligned_section(data, small, z=z - 1), f"aligned section {z - 1}, mip {mip}"),
        "moving": (lambda: _read_coarse_section(data, small, z=z), f"section {z}, coarse alignment only, mip {mip}"),
        "warped": (lambda: _read_aligned_section(data, small, z=z), f"aligned section {z}, mip {mip}"),
    }
    images: dict[str, AnyArray] = {}
    failures: dict[str, str] = {}
    for name, (read, _) in readers.items():
        try:
            images[name] = read()
        except SsemDaskError as error:
            failures[name] = str(error)
    known = [image.ravel() for image in images.values() if image.any()]
    low, high = intensity_limits(np.concatenate(known)) if known else (0.0, 1.0)
    pictures = [
        Picture(name, "", failures[name])
        if name in failures
        else Picture(name, jpeg_uri(stretch_intensities(images[name], low=low, high=high)), caption)
        for name, (_, caption) in readers.items()
    ]
    return [*pictures, _draw_field(data, box, z=z, shape=small.shape_yx)]


def _read_aligned_section(data: ReportData, box: Box, *, z: int) -> AnyArray:
    if z < 0:
        raise _NoPictureError("There is no previous section.")
    url = join(data.run.url, ALIGNED)
    if not is_node(url):
        raise _NoPictureError("Not rendered yet.")
    volume = Volume.open(url)
    stored = volume.stored_mip(box.mip)
    part = _with_section(box, z).at_mip(stored).clipped(volume.shape_at(stored))
    image = volume.read(part)[0]
    if not image.any():
        raise _NoPictureError("Empty, or not rendered yet.")
    step = 2 ** (box.mip - stored)
    return np.asarray(image[::step, ::step])


def _read_coarse_section(data: ReportData, box: Box, *, z: int) -> AnyArray:
    volume = data.run.open_source()
    affine = _read_coarse_affine(data, z)
    with torch.inference_mode():
        image, _ = read_aligned(volume, z=z, box=_with_section(box, z), affine=affine)
    if not image.any():
        raise _NoPictureError("The source is empty here.")
    return np.asarray(image.numpy())


def _read_coarse_affine(data: ReportData, z: int) -> Float64Array:
    url = COARSE.at(data.run.url)
    affine = np.asarray(open_coarse(url)[z]) if is_node(url) else np.full((2, 3), np.nan)
    if not np.isfinite(affine).all():
        raise _NoPictureError("The section has no coarse alignment yet.")
    return np.asarray(affine, dtype=np.float64)


def _draw_field(data: ReportData, box: Box, *, z: int, shape: ShapeYX) -> Picture:
    """Draw the displacement beyond the coarse affine as colour and arrows."""
    url = SECTION.at(data.run.url)
    try:
        if not is_node(url):
            raise _NoPictureError("There is no field yet.")
        array, info = open_field(url)
        affine = _read_coarse_affine(data, z)
    except SsemDaskError as error:
        return Picture("field", "", str(error))
    spacing = info.spacing
    rows, columns = (
        slice(start // spacing, ceil_div(stop, spacing)) for start, stop in zip(box.start_yx, box.stop[1:], strict=True)
    )
    nodes = torch.from_numpy(np.asarray(array[z, :, rows, columns], dtype=np.float32))
    grid = Grid(
        (nodes.shape[1], nodes.shape[2]), spacing, (float(rows.start * spacing), float(columns.start * spacing))
    )
    displacement = (coarse_positions(nodes, coarse=affine, grid=grid) - grid.positions().double()).numpy()
    length = np.hypot(displacement[0], displacement[1])
    if not np.isfinite(length).any():
        return Picture("field", "", "The field is unknown here.")
    longest = float(np.nanmax(length))
    if longest < _LEAST_PX:
        return Picture("field", "", "The section has its coarse alignment, and no displacement beyond it.")
    picture = _enlarge(colourise(length / max(longest, 1e-9)), shape)
    note = (
        f"displacement beyond the coarse affine, dark 0 to light {longest:.1f} px; arrows point to the source of the "
        "pixels"
    )
    return Picture("field", jpeg_uri(picture), note, _arrows(displacement, longest))


def _arrows(displacement: Float64Array, longest: float) -> tuple[tuple[float, float, float, float], ...]:
    height, width = displacement.shape[1:]
    step = max(1, ceil_div(max(height, width), _ARROWS))
    scale = 0.9 * step / max(longest, 1e-9)  # the longest arrow nearly reaches the next one
    arrows = []
    for row in range(step // 2, height, step):
        for column in range(step // 2, width, step):
            dy, dx = displacement[:, row, column]
            if np.isfinite(dy) and np.isfinite(dx):
                x, y = (column + 0.5) / width, (row + 0.5) / height
                arrows.append((x, y, x + dx * scale / width, y + dy * scale / height))
    return tuple(arrows)


def _enlarge(image: NDArray[np.uint8], shape: ShapeYX) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _with_section(box: Box, z: int) -> Box:
    return Box((z, *box.start_yx), (z + 1, box.stop[1], box.stop[2]), box.mip)


class _NoPictureError(SsemDaskError):
    """There is nothing to show, for an expected reason."""
