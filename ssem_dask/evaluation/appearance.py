"""Metrics on pixels: similarity of adjacent sections, and overlap of their labels.

Every candidate warps the same source; `undeformed` shows the truth itself. Adjacent sections are compared over the
pixels that are valid in both sections for *all* candidates: inside the margin, inside the source, tissue and not
damaged. So all candidates are judged by the same area. Of a section larger than 4096 px only the middle is compared.
Images are interpolated bicubically, labels by nearest neighbour.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssem_dask.evaluation.candidates import Candidate
from ssem_dask.evaluation.metrics.alignment_error import margin_of
from ssem_dask.evaluation.metrics.labels import LabelOverlap, label_overlap, mean_overlap
from ssem_dask.evaluation.observation import nearest_labels
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.geometry.box import Box
from ssem_dask.image.similarity import chunked_correlation, normalised_correlation
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import AnyArray, BoolArray, ShapeYX

_MAX_EXTENT_PX = 4096
"""Largest compared area: the middle of a larger section is enough for a mean, and fits into memory."""
_CHUNK_PX = 64
_CHUNKS_NM = (512, 1024, 2048)
_INTERPOLATION_MARGIN_PX = 3
"""Pixels that are read around those that are needed, for the interpolation."""


class PixelSource(Protocol):
    """A source of pixels by box: a stored volume, or a phantom."""

    @property
    def info(self) -> VolumeInfo:
        """Shape, dtype and pixel size of the volume."""
        ...

    def read(self, box: Box) -> AnyArray:
        """Return the values (z, y, x) of a box at mip 0."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """A candidate, and the pixels that it warps."""

    candidate: Candidate
    image: PixelSource
    labels: PixelSource | None
    damage: Callable[[int], BoolArray] | None
    """Function of z: the damaged pixels (y, x) of a section of `image`; None if they are unknown."""


@dataclass(frozen=True, slots=True)
class _WarpedSection:
    """One section, warped by the candidate of a view."""

    image: AnyArray
    labels: AnyArray | None
    valid: BoolArray


def inner_window(shape_yx: ShapeYX) -> Grid:
    """Return the pixels in the middle of a section, inside the margin, at most 4096 px per side."""
    margin = margin_of(shape_yx)
    extents = [min(n - 2 * margin, _MAX_EXTENT_PX) for n in shape_yx]
    origin = [float((n - extent) // 2) for n, extent in zip(shape_yx, extents, strict=True)]
    return Grid((extents[0], extents[1]), 1.0, (origin[0], origin[1]))


def measure_appearance(
    views: Sequence[View], *, sections: Sequence[int], progress: Callable[[int], None] = lambda _: None
) -> list[Mapping[str, float]]:
    """Return similarity and label overlap of adjacent sections, one mapping per view.

    Sections in which no view shows anything are skipped, like missing ones.

    Args:
        views: what to compare; all of the same sections.
        sections: z of the sections.
        progress: function of the number of sections that are done.
    """
    info = views[0].image.info
    window = inner_window((info.shape[1], info.shape[2]))
    meters = [_AppearanceMeter(pixel_size=info.pixel_size) for _ in views]
    previous: list[_WarpedSection] | None = None
    for done, z in enumerate(sections):
        progress(done)
        current = [_warp_section(view, z=z, window=window) for view in views]
        if not any(section.valid.any() for section in current):
            continue
        if previous is not None:
            valid = np.logical_and.reduce([section.valid for section in (*previous, *current)])
            for meter, before, after in zip(meters, previous, current, strict=True):
                meter.add(before, after, valid=valid)
        previous = current
    progress(len(sections))
    return [meter.result() for meter in meters]


class _AppearanceMeter:
    """Means over the pairs of adjacent sections of one view."""

    def __init__(self, *, pixel_size: float) -> None:
        self._sides = {"cpc_64px": _CHUNK_PX} | {f"cpc_{nm}nm": round(nm / pixel_size) for nm in _CHUNKS_NM}
        self._similarities: dict[str, list[float]] = {name: [] for name in ("ncc", *self._sides)}
        self._overlaps: list[LabelOverlap] = []
        self._shares: list[float] = []

    def add(self, before: _WarpedSection, after: _WarpedSection, *, valid: BoolArray) -> None:
        self._shares.append(float(valid.mean()))
        self._similarities["ncc"].append(normalised_correlation(before.image, after.image, valid=valid))
        for name, side in self._sides.items():
            self._similarities[name].append(chunked_correlation(before.image, after.image, valid=valid, side=side))
        if before.labels is not None and after.labels is not None:
            self._overlaps.append(label_overlap(before.labels, after.labels, valid=valid))

    def result(self) -> Mapping[str, float]:
        values = {name: _known_mean(similarities) for name, similarities in self._similarities.items()}
        values["compared_share"] = _known_mean(self._shares)
        if self._overlaps:
            overlap = mean_overlap(self._overlaps)
            values |= {
                "dice_mean": overlap.dice_mean,
                "dice_weighted": overlap.dice_weighted,
                "iou_mean": overlap.iou_mean,
                "iou_weighted": overlap.iou_weighted,
            }
        return values


def _known_mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _warp_section(view: View, *, z: int, window: Grid) -> _WarpedSection:
    positions = window.positions() + view.candidate.displacements(z, window)
    height, width = view.image.info.shape[1:]
    inside = Grid((height, width), 1.0).contains(positions)
    if not bool(inside.any()):
        empty = np.zeros(window.shape, dtype=view.image.info.dtype)
        return _WarpedSection(empty, None if view.labels is None else empty, np.zeros(window.shape, dtype=bool))
    box = _bounding_box(positions[:, inside], z=z, shape_yx=(height, width))
    origin = (float(box.start[1]), float(box.start[2]))
    local = positions - torch.tensor(origin)[:, None, None]
    pixels = torch.from_numpy(view.image.read(box)[0].astype(np.float32))
    tissue = tissue_mask(pixels)
    if view.damage is not None:
        tissue &= ~torch.from_numpy(view.damage(z)[box.slices[1:]])
    warped, mask = sample_image(pixels[None], grid=Grid(box.shape_yx, 1.0), positions=local, kind="bicubic")
    valid = (nearest_labels(tissue.numpy().astype(np.uint8), positions=local) > 0) & mask.numpy()
    labels = None if view.labels is None else nearest_labels(view.labels.read(box)[0], positions=local)
    return _WarpedSection(warped[0].numpy(), labels, valid)


def _bounding_box(positions: Tensor, *, z: int, shape_yx: ShapeYX) -> Box:
    """Return the box of the pixels around `positions` `(2, n)`."""
    low = (positions.amin(dim=1).floor().long() - _INTERPOLATION_MARGIN_PX).tolist()
    high = (positions.amax(dim=1).ceil().long() + _INTERPOLATION_MARGIN_PX).tolist()
    return Box((z, low[0], low[1]), (z + 1, high[0], high[1])).clipped((z + 1, *shape_yx))
