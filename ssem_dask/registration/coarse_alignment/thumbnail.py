"""A section prepared for the coarse search: all that is computed once and used with each of its neighbours."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.affine import Affine, apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.image.pooling import masked_pool
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.flat_contrast import blur, flatten_contrast
from ssem_dask.registration.coarse_alignment.phase import (
    FixedSpectra,
    MovingSpectra,
    fixed_spectra,
    moving_spectra,
    whiten,
)
from ssem_dask.types import ShapeYX

SEARCH_SIDE = 64
"""Side, px, of the square whose area a thumbnail is pooled to for the search over rotations and shifts. Real sections
two and three apart are found more often at 64 than at 96 or 128: it is fine detail that changes between sections."""
ANGLE_STEP_DEG = 2.0
"""Degrees between rotation candidates: two px at the corners of a search image."""
CONTRAST_RADIUS = 14
"""Half side of the window of the local contrast normalisation, px of the search image."""
START_ROTATION_DEG = 2.0
"""Largest rotation searched about a given start."""
START_SHIFT = 0.03
"""Largest shift, as a share of the section's side, searched about a given start."""
_LEVEL_SIDE = 50
"""Least side, px, of the coarsest images that are used for refinement."""
_LEVEL_BLUR = 1.0


@dataclass(frozen=True, slots=True)
class Level:
    """Images of one scale, for refinement."""

    values: Float[Tensor, "2 y x"]
    """Contrast, slightly blurred, 0 off the mask; and the mask, 0 or 1."""
    mask: Bool[Tensor, "y x"]
    grid: Grid
    """Grid of the pixels, thumbnail px."""

    @property
    def image(self) -> Float[Tensor, "y x"]:
        """The contrast."""
        return self.values[0]


class CoarseSection:
    """One section's thumbnail and everything derived from it, computed on first use."""

    def __init__(self, thumbnail: Tensor, *, mask: Tensor, config: CoarseConfig) -> None:
        """Store a thumbnail `(y, x)` float32 and its mask `(y, x)` bool, True on tissue.

        Raises:
            ValueError: their shapes differ.
        """
        if thumbnail.ndim != 2 or thumbnail.shape != mask.shape:
            raise ValueError(
                f"CoarseSection: thumbnail {tuple(thumbnail.shape)} and mask {tuple(mask.shape)} must have one "
                "shape (y, x)."
            )
        self.thumbnail, self.mask, self.config = thumbnail, mask, config

    @property
    def shape(self) -> ShapeYX:
        """(y, x) of the thumbnail."""
        return self.thumbnail.shape[0], self.thumbnail.shape[1]

    @property
    def factor(self) -> int:
        """Thumbnail px per px of the search image."""
        return max(1, round(math.sqrt(self.shape[0] * self.shape[1]) / SEARCH_SIDE))

    @cached_property
    def tissue(self) -> float:
        """Share of the thumbnail that is tissue."""
        return float(self.mask.float().mean())

    @cached_property
    def search_image(self) -> tuple[Float[Tensor, "y x"], Bool[Tensor, "y x"]]:
        """Whitened contrast, and its mask."""
        small, mask = masked_pool(self.thumbnail, self.mask, self.factor)
        contrast = flatten_contrast(small, mask=mask, radius=CONTRAST_RADIUS)
        return whiten(contrast, mask=mask, exponent=self.config.whitening), mask

    @property
    def search_shape(self) -> ShapeYX:
        """(y, x) of the search image."""
        image, _ = self.search_image
        return image.shape[0], image.shape[1]

    @property
    def max_shift(self) -> ShapeYX:
        """Largest shift searched, px of the search image."""
        h, w = self.search_shape
        return math.ceil(self.config.max_shift * h), math.ceil(self.config.max_shift * w)

    @cached_property
    def fixed_spectra(self) -> FixedSpectra:
        """Spectra of the section as the fixed one."""
        image, mask = self.search_image
        return fixed_spectra(image, mask=mask, max_shift=self.max_shift)

    @cached_property
    def moving_spectra(self) -> MovingSpectra:
        """Spectra of the section as the moving one, at all angles."""
        image, mask = self.search_image
        return moving_spectra(image, mask=mask, angles=self._usual_angles, max_shift=self.max_shift)

    @property
    def _usual_angles(self) -> Float[Tensor, "n"]:
        count = math.ceil(self.config.max_rotation / ANGLE_STEP_DEG - 1e-9)
        device = self.thumbnail.device
        return torch.arange(-count, count + 1, device=device) * (self.config.max_rotation / max(count, 1))

    def moving_spectra_about(self, start: Affine, *, narrow: bool) -> MovingSpectra:
        """Transform the section pulled by `start`.

        Args:
            start: fixed section → this section, thumbnail px.
            narrow: whether only small corrections of the start are allowed. Angles then reach twice as far as those;
                the wider ones only show what chance reaches.
        """
        image, mask = self.search_image
        grid = Grid(self.search_shape, float(self.factor))
        positions = apply_affine(start, grid.positions(image.device))
        stacked = torch.stack([image, mask.to(image.dtype)])
        pulled = sample(stacked, grid=grid, positions=positions, kind="bilinear")
        inside = grid.contains(positions) & (pulled[1] > 0.75)
        near = image.new_tensor([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]) * START_ROTATION_DEG
        angles = near if narrow else self._usual_angles
        return moving_spectra(pulled[0] * inside, mask=inside, angles=angles, max_shift=self.max_shift)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Images for refinement, coarse to fine, the last at the thumbnail's own scale."""
        contrast = flatten_contrast(self.thumbnail, mask=self.mask, radius=CONTRAST_RADIUS * max(1, self.factor // 2))
        out = []
        for factor in (4, 2, 1):
            if factor > 1 and min(self.shape) < _LEVEL_SIDE * factor:
                continue
            image, mask = masked_pool(contrast, self.mask, factor)
            known = mask.to(image.dtype)
            smooth, weight = blur(torch.stack([image, known]), _LEVEL_BLUR)
            values = torch.stack([smooth / weight.clamp(min=0.1) * known, known])
            out.append(Level(values, mask, Grid((image.shape[0], image.shape[1]), float(factor))))
        return tuple(out)
