"""Warping: `warp(image, u)(p) = image(p + u(p))` (C5)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation, sample, sample_at


def warp(
    image: Float[Tensor, "c y x"], *, field: Float[Tensor, "2 y x"], spacing: float, kind: Interpolation = "bilinear"
) -> tuple[Float[Tensor, "c y x"], Bool[Tensor, "y x"]]:
    """Warp an image by a dense field on the same grid.

    Args:
        image: float32.
        field: pull displacements, mip-0 px, one per pixel; NaN is unknown.
        spacing: mip-0 px per pixel of the image.
        kind: interpolation of the image.

    Returns:
        The warped image, and a mask that is False where the field is unknown or points outside the image; the image is
        0 there (C8).
    """
    grid = Grid((image.shape[-2], image.shape[-1]), spacing)
    return sample_image(image, grid=grid, positions=grid.positions(image.device) + field, kind=kind)


def sample_image(
    image: Float[Tensor, "c y x"],
    *,
    grid: Grid,
    positions: Float[Tensor, "2 *points"],
    kind: Interpolation,
    tissue: Bool[Tensor, "y x"] | None = None,
) -> tuple[Float[Tensor, "c *points"], Bool[Tensor, "*points"]]:
    """Sample an image, and compute where that is possible.

    Args:
        image: float32 on `grid`.
        grid: grid of the pixels.
        positions: source positions, mip-0 px; NaN is unknown.
        kind: interpolation.
        tissue: pixels on `grid` that show tissue; None: all do.

    Returns:
        The samples, 0 outside the image, and the mask, False there and where the nearest pixel shows no tissue.
    """
    index = grid.index(positions)
    inside = grid.contains_index(index)
    index = torch.where(inside, index, torch.zeros_like(index))
    if kind == "bspline":
        values = sample(image, grid=grid, positions=torch.where(inside, positions, 0.0), kind=kind)
    else:
        values = sample_at(image, index=index, kind=kind)
    values.masked_fill_(~inside, 0.0)
    if tissue is None:
        return values, inside
    shown = sample_at(tissue.float()[None], index=index, kind="nearest")[0] > 0
    return values, inside & shown
