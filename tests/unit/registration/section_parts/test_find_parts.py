"""Broken sections are found, each part with its own map; whole ones are not called broken."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from ssem_dask.registration.section_parts.find_parts import Neighbour, SectionParts, find_parts
from ssem_dask.types import AnyArray

SIDE = 192
MOVED = (6.0, 14.0)
"""px that the right part shows tissue of too far below and to the right."""


def tissue(seed: int, *, like: AnyArray | None = None) -> AnyArray:
    """Return a section (y, x) of blobs of some px; half of it is that of `like`."""
    draw = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE + 64, SIDE + 64)), 2.5)
    draw /= draw.std()
    return draw if like is None else 0.75 * like + 0.66 * draw


def view(block: AnyArray, displacement: AnyArray | None = None) -> Tensor:
    """Cut the middle out of tissue, moved by a displacement (2, y, x)."""
    at = np.mgrid[:SIDE, :SIDE] + 32.0
    at = at if displacement is None else at + displacement
    return torch.from_numpy(128 + 30 * map_coordinates(block, at, order=1, mode="nearest")).float()


def searched(section: Tensor, neighbours: list[Tensor], valid: Tensor | None = None) -> SectionParts | None:
    everywhere = torch.ones(SIDE, SIDE, dtype=torch.bool)
    prepared = [Neighbour(neighbour, everywhere) for neighbour in neighbours]
    return find_parts(section, prepared, valid=everywhere if valid is None else valid)


@pytest.fixture(scope="module")
def stack() -> list[AnyArray]:
    common = tissue(1)
    return [tissue(seed, like=common) for seed in (2, 3, 4, 5, 6)]


def broken(block: AnyArray, *, cut: int = 100, band: int = 0, grey: float = 5.0) -> Tensor:
    displacement = np.zeros((2, SIDE, SIDE))
    displacement[:, :, cut:] = np.array(MOVED)[:, None, None]
    out = view(block, displacement)
    if band:
        out[:, cut - band // 2 : cut + band // 2] = grey
    return out


@pytest.mark.parametrize(("band", "grey"), [(0, 0.0), (16, 5.0), (16, 250.0)])
def test_parts_and_their_maps_are_found(stack: list[AnyArray], band: int, grey: float) -> None:
    parts = searched(broken(stack[2], band=band, grey=grey), [view(stack[1]), view(stack[3])])
    assert parts is not None
    assert len(parts.maps) == 2
    right = int(parts.labels[SIDE // 2, 150])
    assert right != int(parts.labels[SIDE // 2, 40])
    middle = torch.tensor([96.0, 140.0, 1.0], dtype=torch.float64)
    moved = parts.maps[right] @ middle - parts.maps[1 - right] @ middle
    assert moved.numpy() == pytest.approx(MOVED, abs=1.5)
    wrong = torch.cat([parts.labels[:, :80] == right, parts.labels[:, 120:] != right], dim=1)
    assert float(wrong.float().mean()) < 0.02


def test_sections_that_are_whole_have_no_parts(stack: list[AnyArray]) -> None:
    assert searched(view(stack[2]), [view(stack[1]), view(stack[3])]) is None


def test_smooth_distortion_is_no_break(stack: list[AnyArray]) -> None:
    x = np.linspace(-np.pi, np.pi, SIDE)
    wave = np.broadcast_to(4.0 * np.tanh(x), (2, SIDE, SIDE))
    assert searched(view(stack[2], wave), [view(stack[1]), view(stack[3])]) is None


def test_a_band_that_moved_nothing_is_no_break(stack: list[AnyArray]) -> None:
    section = view(stack[2])
    section[:, 90:106] = 4.0
    assert searched(section, [view(stack[1]), view(stack[3])]) is None


def test_a_strip_beyond_a_wide_band_is_found_though_no_block_fits_into_it(stack: list[AnyArray]) -> None:
    section = broken(stack[2], cut=38, band=44)
    parts = searched(section, [view(stack[1]), view(stack[3])])
    assert parts is not None
    strip = int(parts.labels[SIDE // 2, 5])
    assert strip != int(parts.labels[SIDE // 2, 120])
    middle = torch.tensor([96.0, 8.0, 1.0], dtype=torch.float64)
    moved = parts.maps[1 - strip] @ middle - parts.maps[strip] @ middle
    assert moved.numpy() == pytest.approx(MOVED, abs=1.5)


def test_a_strip_beyond_a_wide_band_that_moved_nothing_is_no_part(stack: list[AnyArray]) -> None:
    section = view(stack[2])
    section[:, 16:60] = 4.0
    assert searched(section, [view(stack[1]), view(stack[3])]) is None


def test_a_break_that_only_one_neighbour_sees_is_the_neighbours_own(stack: list[AnyArray]) -> None:
    assert searched(view(stack[2]), [broken(stack[1]), view(stack[3])]) is None


def test_a_neighbour_of_another_place_is_passed_over(stack: list[AnyArray]) -> None:
    other = view(tissue(77))
    section = broken(stack[2])
    assert searched(section, [other, view(stack[3])]) is None
    assert searched(section, [other, view(stack[3]), view(stack[1])]) is not None


def test_a_section_of_another_place_has_no_parts(stack: list[AnyArray]) -> None:
    assert searched(view(tissue(77)), [view(block) for block in stack[:4]]) is None


def test_noise_has_no_parts(stack: list[AnyArray]) -> None:
    for seed in range(3):
        noise = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (SIDE, SIDE))).float()
        assert searched(noise, [view(block) for block in stack[:4]]) is None


def test_empty_and_small_sections_have_no_parts(stack: list[AnyArray]) -> None:
    nothing = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    assert searched(view(stack[2]), [view(stack[1]), view(stack[3])], valid=nothing) is None
    small = torch.ones(40, 40)
    inside = torch.ones(40, 40, dtype=torch.bool)
    neighbour = Neighbour(small, inside)
    assert find_parts(small, [neighbour, neighbour], valid=inside) is None


def test_gain_and_offset_change_nothing(stack: list[AnyArray]) -> None:
    section, neighbours = broken(stack[2], band=16), [view(stack[1]), view(stack[3])]
    parts, other = searched(section, neighbours), searched(0.3 * section + 700, neighbours)
    assert parts is not None
    assert other is not None
    assert float((parts.labels != other.labels).float().mean()) < 0.001
