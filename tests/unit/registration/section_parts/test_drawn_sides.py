"""Sides of a drawn line are placed where they belong: by pixels, by points, or with the largest side."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ssem_dask.registration.section_parts.drawn_sides import drawn_sides, place_sides
from ssem_dask.registration.section_parts.find_parts import Neighbour, SectionParts
from ssem_dask.types import AnyArray

SIDE, CUT = 88, 40
MOVED = 5, 14
"""px by which the left side, the smaller one, was moved: too little of it is there for the search for parts."""
EVERYWHERE = torch.ones(SIDE, SIDE, dtype=torch.bool)


def blobs(seed: int) -> AnyArray:
    draw = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE + 64, SIDE + 64)), 2.5)
    return np.asarray(draw / draw.std())


def broken(seed: int) -> tuple[Tensor, list[Neighbour]]:
    common = blobs(1)
    whole = [torch.from_numpy(128 + 25 * (common + 0.6 * blobs(n))).float() for n in (2, 3, seed)]
    inner = slice(32, 32 + SIDE)
    section = whole[2][inner, inner].clone()
    section[:, :CUT] = whole[2][32 + MOVED[0] : 32 + MOVED[0] + SIDE, 32 - MOVED[1] : 32 - MOVED[1] + CUT]
    return section, [Neighbour(each[inner, inner], EVERYWHERE) for each in whole[:2]]


def placed(section: Tensor, neighbours: list[Neighbour], points: dict[int, Tensor] | None = None) -> SectionParts:
    border = torch.zeros_like(EVERYWHERE)
    border[:, CUT - 1 : CUT + 1] = True
    sides = drawn_sides(border, valid=EVERYWHERE)
    assert sides is not None
    return place_sides(section, neighbours, valid=EVERYWHERE, sides=sides, points=points or {})


def shift_of(parts: SectionParts, part: int, at: tuple[float, float]) -> Tensor:
    return parts.maps[part] @ torch.tensor([*at, 1.0], dtype=torch.float64) - torch.tensor(at, dtype=torch.float64)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_each_side_is_placed(seed: int) -> None:
    parts = placed(*broken(seed))
    left, right = int(parts.labels[40, 10]), int(parts.labels[40, 80])
    assert (left, right) == (1, 0)
    torch.testing.assert_close(shift_of(parts, right, (44.0, 64.0)), torch.zeros(2).double(), rtol=0, atol=1.5)
    wanted = torch.tensor([float(MOVED[0]), -float(MOVED[1])], dtype=torch.float64)
    torch.testing.assert_close(shift_of(parts, left, (44.0, 24.0)), wanted, rtol=0, atol=1.5)


def test_points_place_a_side_that_resembles_nothing() -> None:
    section, neighbours = broken(11)
    section[:, :CUT] = torch.from_numpy(128 + 25 * blobs(99)[:SIDE, :CUT]).float()
    points = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 9.0]])
    parts = placed(section, neighbours, {1: points})
    assert shift_of(parts, 1, (44.0, 24.0)).tolist() == pytest.approx([-3.0, 9.0], abs=1e-4)


def test_a_side_without_texture_moves_with_the_largest() -> None:
    section, neighbours = broken(11)
    section[:, :CUT] = 128.0
    parts = placed(section, neighbours)
    torch.testing.assert_close(parts.maps[1], parts.maps[0])


def test_a_line_that_ends_within_the_tissue_makes_no_sides() -> None:
    border = torch.zeros_like(EVERYWHERE)
    border[: SIDE // 2, CUT] = True
    assert drawn_sides(border, valid=EVERYWHERE) is None


def test_only_as_many_sides_as_parts_are_told_apart() -> None:
    border = torch.zeros_like(EVERYWHERE)
    border[:, [15, 35, 60]] = True
    sides = drawn_sides(border, valid=EVERYWHERE)
    assert sides is not None
    assert sorted(np.unique(sides)) == [-1, 0, 1, 2]
    assert sides[0, 5] == -1  # the smallest of four
    assert sides[0, 80] == 0
