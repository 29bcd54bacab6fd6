"""Warping: `warp(image, u)(p) = image(p + u(p))` (C5)."""

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Kind, sample


def warp(image: Tensor, *, field: Tensor, spacing: float, kind: Kind = "bilinear") -> tuple[Tensor, Tensor]:
    """Warp an image by a dense field on the same grid.

    Args:
        image: `(c, y, x)` float32.
        field: `(2, y, x)` pull displacements, mip-0 px, one for each pixel; NaN is unknown.
        spacing: mip-0 px per pixel of the image.
        kind: interpolation of the image.

    Returns:
        The warped image `(c, y, x)`, and a mask `(y, x)` that is False where the field is unknown or points outside
        the image; the image is 0 there (C8).
    """
    grid = Grid((image.shape[-2], image.shape[-1]), spacing)
    return sample_image(image, grid=grid, positions=grid.positions(image.device) + field, kind=kind)


def sample_image(image: Tensor, *, grid: Grid, positions: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Sample an image and say where that was possible.

    Args:
        image: `(c, y, x)` float32 on `grid`.
        grid: where the pixels lie.
        positions: `(2, …)` source positions, mip-0 px; NaN is unknown.
        kind: interpolation.

    Returns:
        `(c, …)`, 0 where not possible, and the mask `(…)`.
    """
    mask = grid.contains(positions)
    where = torch.where(mask, positions, torch.zeros_like(positions))
    values = sample(image, grid=grid, positions=where, kind=kind)
    return torch.where(mask, values, torch.zeros_like(values)), mask
