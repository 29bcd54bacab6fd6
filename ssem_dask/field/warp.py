"""Warping: `warp(image, u)(p) = image(p + u(p))` (C5)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Kind, sample, sample_at


def warp(
    image: Float[Tensor, "c y x"], *, field: Float[Tensor, "2 y x"], spacing: float, kind: Kind = "bilinear"
) -> tuple[Float[Tensor, "c y x"], Bool[Tensor, "y x"]]:
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


def sample_image(
    image: Float[Tensor, "c y x"],
    *,
    grid: Grid,
    positions: Float[Tensor, "2 *points"],
    kind: Kind,
    tissue: Bool[Tensor, "y x"] | None = None,
) -> tuple[Float[Tensor, "c *points"], Bool[Tensor, "*points"]]:
    """Sample an image and say where that was possible.

    Args:
        image: `(c, y, x)` float32 on `grid`.
        grid: where the pixels lie.
        positions: `(2, …)` source positions, mip-0 px; NaN is unknown.
        kind: interpolation.
        tissue: bool `(y, x)` on `grid`: pixels that show something; None: all do.

    Returns:
        `(c, …)`, 0 where not possible, and the mask `(…)`, False there and where the nearest pixel shows nothing.
    """
    index = grid.index(positions)
    inside = grid.holds(index)
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
