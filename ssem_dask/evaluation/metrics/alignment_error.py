"""The map c_z, aligned → truth, on the grid where alignment errors are compared."""

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.types import ShapeYX

SPACING = 4
"""mip-0 px between the nodes at which errors are compared."""

_MARGIN_PX = 96
"""Margin along the border of the aligned section, where nothing counts; mip-0 px."""
_MARGIN_SHARE = 0.24


def margin_of(shape_yx: ShapeYX) -> int:
    """Return the margin of a section: 96 px, or 24 % of the shorter side if that is less than 400 px."""
    return min(_MARGIN_PX, int(_MARGIN_SHARE * min(shape_yx)))


def inner_nodes(shape_yx: ShapeYX) -> Tensor:
    """Return the mask `(y, x)` of the nodes of the 4-px grid that are inside the margin."""
    grid = Grid.of_section(shape_yx, spacing=SPACING)
    margin = margin_of(shape_yx)
    y, x = grid.positions()
    inner: Tensor = (y >= margin) & (y <= shape_yx[0] - margin) & (x >= margin) & (x <= shape_yx[1] - margin)
    return inner


def alignment_map(*, truth: Tensor, recovered: Tensor, damage: Tensor, shape_yx: ShapeYX) -> Tensor:
    """Return c_z as displacements `(2, y, x)` on the 4-px grid: c_z = f_z + d_z(p + f_z), truth px.

    NaN in the margin, at nodes whose f_z is unknown or points outside the observed section, and at nodes whose observed
    pixel is damaged or has no d_z.

    Args:
        truth: d_z `(2, y, x)` on the 4-px grid of the observed section, px.
        recovered: f_z `(2, y, x)` on the 4-px grid of the aligned section, px.
        damage: damaged nodes, bool `(y, x)` on the 4-px grid of the observed section.
        shape_yx: extent (y, x) of the section, aligned and observed alike, mip-0 px.
    """
    grid = Grid.of_section(shape_yx, spacing=SPACING)
    observed = grid.positions() + recovered
    section = Grid(shape_yx, 1.0)
    usable = inner_nodes(shape_yx) & section.contains(observed)
    positions = torch.where(usable, observed, torch.full_like(observed, torch.nan))
    sound = torch.where(damage, torch.full_like(truth, torch.nan), truth)
    if damage.any() and not bool(torch.isnan(sound).all()):
        # The nearest node decides, since bilinear sampling would fill a damaged node from sound neighbours.
        index = torch.nan_to_num(grid.index(positions), nan=0.0).round().long()
        limit = torch.tensor(grid.shape).reshape(2, 1, 1) - 1
        y, x = torch.minimum(index.clamp(min=0), limit)
        positions = torch.where(damage[y, x], torch.full_like(positions, torch.nan), positions)
    return recovered + sample_known(sound, grid=grid, positions=positions)
