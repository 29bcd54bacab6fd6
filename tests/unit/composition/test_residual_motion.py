"""Motion left between neighbours: none where the fields undo what the pair fields see."""

import numpy as np
import torch

from ssem_dask.composition.residual_motion import coarse_positions, residual_motion
from ssem_dask.field.affine import IDENTITY, rotation_about
from ssem_dask.field.grid import Grid

GRID = Grid((12, 16), 8.0)


def constant(dy: float, dx: float) -> torch.Tensor:
    return torch.tensor([dy, dx], dtype=torch.float32)[:, None, None].expand(2, *GRID.shape).contiguous()


def test_without_a_field_the_pair_field_is_left() -> None:
    here = coarse_positions(constant(0, 0), coarse=IDENTITY, grid=GRID)
    left = residual_motion(positions=here, positions_before=here, pair=constant(1.5, -2.0), pair_grid=GRID)
    torch.testing.assert_close(left, constant(1.5, -2.0))


def test_a_field_that_undoes_the_pair_field_leaves_nothing() -> None:
    """The section before is moved by what the pair field sees, so both show the same tissue at the same place."""
    here = coarse_positions(constant(0, 0), coarse=IDENTITY, grid=GRID)
    before = coarse_positions(constant(1.5, -2.0), coarse=IDENTITY, grid=GRID)
    left = residual_motion(positions=here, positions_before=before, pair=constant(1.5, -2.0), pair_grid=GRID)
    torch.testing.assert_close(left, constant(0, 0))


def test_coarse_maps_cancel() -> None:
    """Fields hold the coarse map; one that is nothing but it leads to the same place."""
    affine = rotation_about(degrees=7.0, centre=(40.0, 60.0), shift=(3.0, -5.0))
    positions = GRID.positions().double()
    field = (torch.from_numpy(affine[:, :2]) @ positions.flatten(1) + torch.from_numpy(affine[:, 2:])).reshape(
        positions.shape
    ) - positions
    there = coarse_positions(field.float(), coarse=affine, grid=GRID)
    torch.testing.assert_close(there, positions, atol=1e-4, rtol=0)


def test_what_is_unknown_stays_unknown() -> None:
    here = coarse_positions(constant(0, 0), coarse=np.full((2, 3), np.nan), grid=GRID)
    assert torch.isnan(here).all()
    known = coarse_positions(constant(0, 0), coarse=IDENTITY, grid=GRID)
    assert torch.isnan(
        residual_motion(positions=here, positions_before=known, pair=constant(0, 0), pair_grid=GRID)
    ).all()
    outside = Grid((4, 16), 8.0)
    pair = torch.zeros(2, 4, 16)
    left = residual_motion(positions=known, positions_before=known, pair=pair, pair_grid=outside)
    assert torch.isfinite(left[:, :4]).all()
    assert torch.isnan(left[:, 4:]).all()
