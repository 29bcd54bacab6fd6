"""Search for a section that matches nothing in the usual range: all rotations, mirrored, inverted, scaled, far shifts.

The section was perhaps mounted upside down or turned over, imaged at another magnification or with inverted contrast.
All of these are candidates of one search; the best of them is refined like any pair. It takes some hundred times the
correlations of the usual search, so it is meant for the few sections that need it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.affine import IDENTITY, Affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.registration.coarse_alignment.pair import MIN_OVERLAP, MIN_TISSUE
from ssem_dask.registration.coarse_alignment.phase import (
    CHANCE_DEVIATIONS,
    MovingSpectra,
    fixed_spectra,
    score_candidates,
    spectra_of,
)
from ssem_dask.registration.coarse_alignment.refine import correlation, refine_affine
from ssem_dask.registration.coarse_alignment.thumbnail import ANGLE_STEP_DEG, CoarseSection, Level
from ssem_dask.types import ShapeYX

MAX_SHIFT = 0.5
"""Largest shift, as a share of the section's side."""
SCALES = (1.0, 0.9, 1.1)
"""Scales that are tried one after the other until one matches; each covers about ±6 %."""
_ENOUGH = 1.5
"""Ratio at which no further scale is tried."""
_BATCH = 30
"""Rotations transformed at a time."""


@dataclass(frozen=True, slots=True)
class WidePair:
    """The map between two sections, and how far it can be trusted."""

    affine: Affine
    """Pull affine: fixed mip-0 px → moving mip-0 px; its determinant is negative if one is mirrored."""
    ratio: float
    """Ratio, see `CoarsePair`; 0: nothing to compare."""
    similarity: float
    """Correlation of the aligned thumbnails, of inverted ones after inverting one of them; NaN: nothing to compare."""
    inverted: bool
    """Whether one shows dark what the other shows bright."""
    scale: float
    """The one of the scales that were tried that led to it."""


@dataclass(frozen=True, slots=True)
class _Peak:
    matrix: Float[Tensor, "2 2"]
    shift: tuple[float, float]
    ratio: float
    inverted: bool
    scale: float


class WideSection:
    """A section that is searched for: its spectra at all rotations, mirrored or not, for one scale at a time."""

    def __init__(self, section: CoarseSection) -> None:
        self.section = section
        self._spectra: dict[float, tuple[Tensor, MovingSpectra]] = {}

    @cached_property
    def max_shift(self) -> ShapeYX:
        """Largest shift, px of the search image."""
        h, w = self.section.search_shape
        return math.ceil(MAX_SHIFT * h), math.ceil(MAX_SHIFT * w)

    def spectra(self, scale: float) -> tuple[Float[Tensor, "n 2 2"], MovingSpectra]:
        """Return the linear maps, fixed → moving, and the spectra of the section pulled by them."""
        if scale not in self._spectra:
            matrices = _matrices(scale)
            parts = [self._transform(matrices[i : i + _BATCH]) for i in range(0, len(matrices), _BATCH)]
            angles = torch.zeros(len(matrices))
            whole = MovingSpectra(angles=angles, spectra=torch.cat(parts), area=float(self._search[1].sum()))
            self._spectra = {scale: (matrices, whole)}  # those of one scale are some 50 MB
        return self._spectra[scale]

    @property
    def _search(self) -> tuple[Float[Tensor, "y x"], Bool[Tensor, "y x"]]:
        return self.section.search_image

    def _transform(self, matrices: Float[Tensor, "n 2 2"]) -> Tensor:
        image, mask = self._search
        grid = Grid(self.section.search_shape, 1.0)
        middle = torch.tensor(grid.shape).reshape(2, 1, 1) / 2
        stacked = torch.stack([image, mask.to(image.dtype)])
        images, masks = [], []
        for matrix in matrices:
            positions = torch.einsum("ij,jyx->iyx", matrix, grid.positions() - middle) + middle
            pulled = sample(stacked, grid=grid, positions=positions, kind="bilinear")
            inside = grid.contains(positions) & (pulled[1] > 0.75)
            images.append(pulled[0] * inside)
            masks.append(inside)
        return spectra_of(torch.stack(images), torch.stack(masks), max_shift=self.max_shift)


def search_pair(
    *, fixed: CoarseSection, moving: WideSection, pixel: float, scales: Sequence[float] = SCALES
) -> WidePair:
    """Search for the map that pulls `moving` onto `fixed`.

    Args:
        fixed: thumbnail.
        moving: thumbnail of the same shape, that is searched for.
        pixel: mip-0 px per thumbnail px.
        scales: scales to try, until one of them matches well.
    """
    unknown = WidePair(IDENTITY.copy(), 0.0, float("nan"), inverted=False, scale=1.0)
    if min(fixed.tissue, moving.section.tissue) < MIN_TISSUE:
        return unknown
    best: _Peak | None = None
    for scale in scales:
        peak = _best_peak(fixed, moving, scale)
        if peak is not None and (best is None or peak.ratio > best.ratio):
            best = peak
        if best is not None and best.ratio >= _ENOUGH:
            break
    if best is None:
        return unknown
    middle = np.asarray(fixed.search_shape) * fixed.factor / 2
    linear = best.matrix.double().numpy()
    shift = linear @ (fixed.factor * np.asarray(best.shift))
    rough = np.column_stack([linear, middle - linear @ middle + shift])
    levels = _negative(moving.section.levels) if best.inverted else moving.section.levels
    refined = refine_affine(rough, fixed=fixed.levels, moving=levels)
    half = (fixed.levels[-2:][0], levels[-2:][0])
    return WidePair(
        affine=np.column_stack([refined[:, :2], refined[:, 2] * pixel]),
        ratio=best.ratio,
        similarity=correlation(refined, *half),
        inverted=best.inverted,
        scale=best.scale,
    )


def _matrices(scale: float) -> Float[Tensor, "n 2 2"]:
    """Return all rotations, then all of the mirror image, each times the scale."""
    count = round(360 / ANGLE_STEP_DEG)
    radians = torch.deg2rad(torch.arange(count) * ANGLE_STEP_DEG)
    cos, sin = radians.cos(), radians.sin()
    rotations = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    mirror = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    return scale * torch.cat([rotations, rotations @ mirror])


def _best_peak(fixed: CoarseSection, moving: WideSection, scale: float) -> _Peak | None:
    image, mask = fixed.search_image
    max_shift = moving.max_shift
    matrices, spectra = moving.spectra(scale)
    fixed_side = fixed_spectra(image, mask=mask, max_shift=max_shift)
    scores, counted = [], []
    for start in range(0, len(matrices), _BATCH):
        part = MovingSpectra(
            angles=spectra.angles[start : start + _BATCH],
            spectra=spectra.spectra[start : start + _BATCH],
            area=spectra.area,
        )
        score, enough = score_candidates(
            fixed_side, part, shape=fixed.search_shape, max_shift=max_shift, min_overlap=MIN_OVERLAP
        )
        scores.append(score)
        counted.append(enough)
    score, enough = torch.cat(scores), torch.cat(counted)
    # Inverted contrast is a negative correlation.
    inverted = bool(-score.min() > score.max())
    if inverted:
        score = -score
    best = int(score.argmax())
    _, h, w = score.shape
    a, i, j = best // (h * w), best // w % h, best % w
    peak = float(score[a, i, j])
    if peak <= 0:
        return None
    others = score[_far_from(a, i, j, count=len(matrices), shape=(h, w), side=max(fixed.search_shape)) & enough].abs()
    second, noise = (float(others.max()), float(others.square().mean().sqrt())) if others.numel() else (0.0, 0.0)
    return _Peak(
        matrix=matrices[a],
        shift=(float(i - max_shift[0]), float(j - max_shift[1])),
        ratio=peak / max(second, CHANCE_DEVIATIONS * noise, 1e-3 * peak),
        inverted=inverted,
        scale=scale,
    )


def _far_from(a: int, i: int, j: int, *, count: int, shape: ShapeYX, side: int) -> Tensor:
    """Select the candidates outside the neighbourhood of one; see `phase`. The second half of them is mirrored."""
    near = max(3.0, side / 16)
    rows, columns = torch.arange(shape[0])[:, None] - i, torch.arange(shape[1])[None, :] - j
    half = count // 2
    index = torch.arange(count)
    apart = (index % half - a % half).abs()
    turns = torch.minimum(apart, half - apart) * (2 * math.pi / half)
    at_edge = torch.where(index // half == a // half, turns * side / 2, torch.full_like(turns, -1.0 - near))
    return torch.hypot(rows.float(), columns.float())[None] > near + at_edge[:, None, None]


def _negative(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    return tuple(
        Level(torch.stack([-level.values[0], level.values[1]]), mask=level.mask, grid=level.grid) for level in levels
    )
