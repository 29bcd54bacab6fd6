"""A section as the coarse search sees it: everything that is computed once and used with each of its neighbours."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ssem_dask.field.affine import apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.image.pooling import masked_pool
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.flat_contrast import blur, local_contrast
from ssem_dask.registration.coarse_alignment.phase import Still, Turned, still_spectra, turned_spectra, whiten
from ssem_dask.types import Float64Array, ShapeYX

SEARCH_SIDE = 64
"""Side, px, of the square whose area a thumbnail is pooled to for the search over rotations and shifts. Real sections
two and three apart are found more often at 64 than at 96 or 128: what changes from section to section is fine."""
ANGLE_STEP = 2.0
"""Degrees between rotation candidates: two px at the corners of a search image."""
CONTRAST_RADIUS = 14
"""Half side in px of the search image of the window of the local contrast normalisation."""
START_ROTATION = 2.0
"""Largest rotation, degrees, searched about a start that is given."""
START_SHIFT = 0.03
"""Largest shift, as a share of the section's side, searched about a start that is given."""
_LEVEL_SIDE = 50
"""Least side, px, of the coarsest images that are refined on."""
_LEVEL_BLUR = 1.0


@dataclass(frozen=True, slots=True)
class Level:
    """Images of one scale, to refine on."""

    values: Tensor
    """`(2, y, x)` float32: contrast, slightly blurred, 0 off the mask; and the mask, 0 or 1."""
    mask: Tensor
    """`(y, x)` bool."""
    grid: Grid
    """Positions in thumbnail px."""

    @property
    def image(self) -> Tensor:
        """`(y, x)`, the contrast."""
        return self.values[0]


class CoarseSection:
    """One section's thumbnail and what follows from it; nothing is computed before it is asked for."""

    def __init__(self, thumbnail: Tensor, *, mask: Tensor, config: CoarseConfig) -> None:
        """Take a thumbnail `(y, x)` float32 and its mask `(y, x)` bool, True on tissue.

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
    def search_image(self) -> tuple[Tensor, Tensor]:
        """Whitened contrast `(y, x)`, and its mask."""
        small, mask = masked_pool(self.thumbnail, self.mask, self.factor)
        contrast = local_contrast(small, mask=mask, radius=CONTRAST_RADIUS)
        return whiten(contrast, mask=mask, exponent=self.config.whitening), mask

    @property
    def search_shape(self) -> ShapeYX:
        """(y, x) of the search image."""
        image, _ = self.search_image
        return image.shape[0], image.shape[1]

    @property
    def reach(self) -> ShapeYX:
        """Largest shift searched, px of the search image."""
        h, w = self.search_shape
        return math.ceil(self.config.max_shift * h), math.ceil(self.config.max_shift * w)

    @cached_property
    def still(self) -> Still:
        """What the section contributes as the fixed one."""
        image, mask = self.search_image
        return still_spectra(image, mask=mask, reach=self.reach)

    @cached_property
    def turned(self) -> Turned:
        """What the section contributes as the moving one, at all angles."""
        image, mask = self.search_image
        count = math.ceil(self.config.max_rotation / ANGLE_STEP - 1e-9)
        angles = torch.arange(-count, count + 1, device=image.device) * (self.config.max_rotation / max(count, 1))
        if self.config.flips:
            angles = torch.cat([angles, angles + 180.0])
        return turned_spectra(image, mask=mask, angles=angles, reach=self.reach)

    def turned_from(self, start: Float64Array) -> Turned:
        """The same about a start `(2, 3)`, fixed → this section in thumbnail px; angles twice as wide as are allowed.

        The wider angles only say what chance reaches.
        """
        image, mask = self.search_image
        grid = Grid(self.search_shape, float(self.factor))
        positions = apply_affine(start, grid.positions(image.device))
        stacked = torch.stack([image, mask.to(image.dtype)])
        pulled = sample(stacked, grid=grid, positions=positions, kind="bilinear")
        inside = grid.contains(positions) & (pulled[1] > 0.75)
        angles = image.new_tensor([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]) * START_ROTATION
        return turned_spectra(pulled[0] * inside, mask=inside, angles=angles, reach=self.reach)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Images to refine on, coarse to fine, the last at the thumbnail's own scale."""
        contrast = local_contrast(self.thumbnail, mask=self.mask, radius=CONTRAST_RADIUS * max(1, self.factor // 2))
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
