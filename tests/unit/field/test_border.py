"""Fields up to the border of a section."""

import pytest
import torch

from ssem_dask.field.border import extrapolated
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known

GRID = Grid((5, 4), 16.0)


def affine(positions: torch.Tensor) -> torch.Tensor:
    y, x = positions
    return torch.stack([3.0 - 2.0 * y + 0.5 * x, -0.25 * y + 0.125 * x - 1.0])


def test_an_affine_map_holds_up_to_the_border() -> None:
    field, grid = extrapolated(affine(GRID.positions()), grid=GRID)
    corners = torch.tensor([[0.0, 0.0, 80.0, 80.0, 7.5], [0.0, 64.0, 0.0, 64.0, 63.0]])
    torch.testing.assert_close(sample_known(field, grid=grid, positions=corners), affine(corners))
    # Between the nodes nothing has changed.
    assert torch.equal(field[:, 1:-1, 1:-1], affine(GRID.positions()))
    assert torch.equal(grid.positions()[:, 1:-1, 1:-1], GRID.positions())


@pytest.mark.parametrize("sides", [((True, False), (False, False)), ((False, True), (False, True))])
def test_a_part_of_a_field_is_continued_where_the_section_ends(sides: tuple[tuple[bool, bool], ...]) -> None:
    (top, bottom), (left, right) = sides
    field, grid = extrapolated(affine(GRID.positions()), grid=GRID, sides=((top, bottom), (left, right)))
    assert grid.shape == (5 + top + bottom, 4 + left + right)
    torch.testing.assert_close(field, affine(grid.positions()))


def test_what_is_unknown_stays_so_and_one_known_node_is_repeated() -> None:
    field = affine(GRID.positions())
    field[:, 0, 0] = torch.nan
    field[:, 1, 2] = torch.nan
    wide, grid = extrapolated(field, grid=GRID)
    assert torch.isnan(wide[:, :2, 1]).all()
    assert torch.equal(wide[:, 0, 3], field[:, 0, 2])
    single, _ = extrapolated(field[:, 2:3], grid=Grid((1, 4), 16.0))
    assert torch.equal(single[:, 0], single[:, 1])
    assert grid.shape == (7, 6)
