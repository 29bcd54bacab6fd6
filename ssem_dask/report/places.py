"""Pictures of a place: the section before, the section before and after its warp, and the field that warped it.

Fixed and warped come from the aligned volume, moving is the source placed by its coarse affine alone. The field is what
was changed beyond that affine: the length of the displacement in colour, its direction (from where pixels were taken,
C5) as arrows. All four show the same box of the aligned section.
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
from ssem_dask.report.encode import coloured, jpeg_uri, limits, stretched
from ssem_dask.report.hotspots import Place
from ssem_dask.report.report_data import Material, window_box
from ssem_dask.stages.source_sections import read_aligned
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fields import open_coarse, open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float64Array, ShapeYX

_SIDE = 256  # px of a picture, at most
_ARROWS = 8  # along the longer side


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the four."""

    name: str
    uri: str
    """data: URI; empty where there is nothing to show."""
    note: str
    """What it shows, or why it does not."""
    arrows: tuple[tuple[float, float, float, float], ...] = ()
    """(x1, y1, x2, y2) in shares of the picture."""


def draw_place(material: Material, place: Place) -> list[Picture]:
    """The four pictures of a place; what cannot be read is left out and says why."""
    box = window_box(material, z=place.z, row=place.row, column=place.column)
    mip = 0
    while max(box.at_mip(mip).shape_yx) > _SIDE:
        mip += 1
    small = box.at_mip(mip)
    where = f"mip {mip}"
    images: dict[str, tuple[Callable[[], AnyArray], str]] = {
        "fixed": (lambda: _aligned(material, small, z=place.z - 1), f"aligned section {place.z - 1}, {where}"),
        "moving": (lambda: _moving(material, small, z=place.z), f"section {place.z}, rigid or affine only, {where}"),
        "warped": (lambda: _aligned(material, small, z=place.z), f"aligned section {place.z}, {where}"),
    }
    shown: dict[str, AnyArray | str] = {}
    for name, (read, _) in images.items():
        try:
            shown[name] = read()
        except SsemDaskError as error:
            shown[name] = str(error)
    known = [image for image in shown.values() if not isinstance(image, str) and image.any()]
    low, high = limits(np.concatenate([image.ravel() for image in known])) if known else (0.0, 1.0)
    pictures = []
    for name, found in shown.items():
        if isinstance(found, str):
            pictures.append(Picture(name, "", found))
        else:
            pictures.append(Picture(name, jpeg_uri(stretched(found, low=low, high=high)), images[name][1]))
    return [*pictures, _field(material, box, z=place.z, shape=small.shape_yx)]


def _aligned(material: Material, box: Box, *, z: int) -> AnyArray:
    if z < 0:
        raise _AbsentError("There is no section before the first one.")
    url = join(material.url, "aligned")
    if not is_node(url):
        raise _AbsentError("Not rendered yet.")
    volume = Volume.open(url)
    stored = volume.stored_mip(box.mip)
    part = _at(box, z).at_mip(stored).clipped(volume.shape_at(stored))
    image = volume.read(part)[0]
    if not image.any():
        raise _AbsentError("Empty, or not rendered yet.")
    step = 2 ** (box.mip - stored)
    return np.asarray(image[::step, ::step])


def _moving(material: Material, box: Box, *, z: int) -> AnyArray:
    volume = Volume.open(material.attributes["source"], **material.attributes["config"]["volume"])
    affine = _coarse(material, z)
    with torch.inference_mode():
        image, _ = read_aligned(volume, z=z, box=_at(box, z), affine=affine)
    if not image.any():
        raise _AbsentError("The source is empty here.")
    return np.asarray(image.numpy())


def _coarse(material: Material, z: int) -> Float64Array:
    url = join(material.url, "fields", "coarse")
    affine = np.asarray(open_coarse(url)[z]) if is_node(url) else np.full((2, 3), np.nan)
    if not np.isfinite(affine).all():
        raise _AbsentError("The section was not placed yet.")
    return np.asarray(affine, dtype=np.float64)


def _field(material: Material, box: Box, *, z: int, shape: ShapeYX) -> Picture:
    """Displacement beyond the coarse affine, as colour and arrows."""
    url = join(material.url, "fields", "section")
    try:
        if not is_node(url):
            raise _AbsentError("There is no field yet.")
        array, info = open_field(url)
        affine = _coarse(material, z)
    except SsemDaskError as error:
        return Picture("field", "", str(error))
    spacing = info.spacing
    rows, columns = (
        slice(start // spacing, -(-stop // spacing)) for start, stop in zip(box.start_yx, box.stop[1:], strict=True)
    )
    nodes = torch.from_numpy(np.asarray(array[z, :, rows, columns], dtype=np.float32))
    grid = Grid(
        (nodes.shape[1], nodes.shape[2]), spacing, (float(rows.start * spacing), float(columns.start * spacing))
    )
    moved = (coarse_positions(nodes, coarse=affine, grid=grid) - grid.positions().double()).numpy()
    length = np.hypot(moved[0], moved[1])
    if not np.isfinite(length).any():
        return Picture("field", "", "The field is unknown here.")
    longest = float(np.nanmax(length))
    scaled = length / max(longest, 1e-9)
    picture = _enlarged(coloured(scaled), shape)
    note = f"displacement beyond the affine, dark 0 to light {longest:.1f} px; arrows point to where pixels came from"
    return Picture("field", jpeg_uri(picture), note, _arrows(moved, longest))


def _arrows(moved: Float64Array, longest: float) -> tuple[tuple[float, float, float, float], ...]:
    height, width = moved.shape[1:]
    step = max(1, -(-max(height, width) // _ARROWS))
    reach = 0.9 * step / max(longest, 1e-9)  # the longest arrow nearly meets the next one
    arrows = []
    for row in range(step // 2, height, step):
        for column in range(step // 2, width, step):
            dy, dx = moved[:, row, column]
            if np.isfinite(dy) and np.isfinite(dx):
                x, y = (column + 0.5) / width, (row + 0.5) / height
                arrows.append((x, y, x + dx * reach / width, y + dy * reach / height))
    return tuple(arrows)


def _enlarged(image: NDArray[np.uint8], shape: ShapeYX) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _at(box: Box, z: int) -> Box:
    return Box((z, *box.start_yx), (z + 1, box.stop[1], box.stop[2]), box.mip)


class _AbsentError(SsemDaskError):
    """A picture cannot be shown, and that is no mistake."""
