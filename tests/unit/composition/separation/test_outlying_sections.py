"""A section displaced by many times what is usual is taken out; jumps, distortion and other parameters are not."""

from collections.abc import Sequence

import numpy as np
import pytest

from ssem_dask.composition.separation.outlying_sections import outlying_maps
from ssem_dask.field.affine import IDENTITY, Affine, compose_affine, invert_affine, rotation_about
from ssem_dask.types import BoolArray, Float64Array

_SHAPE = (500, 500)
_COUNT = 16


def pairs(displaced: dict[int, Affine], *, seed: int) -> Float64Array:
    """Maps between neighbours whose sections are displaced a little at random, some of them by more."""
    rng = np.random.default_rng(seed)
    maps = []
    for z in range(_COUNT):
        small = rotation_about(degrees=rng.uniform(-2, 2), centre=(250, 250), shift=tuple(rng.uniform(-12, 12, 2)))
        maps.append(compose_affine(outer=displaced.get(z, IDENTITY), inner=small))
    out = np.full((3, _COUNT, 2, 3), np.nan)
    for k in range(1, 4):
        for z in range(k, _COUNT):
            out[k - 1, z] = compose_affine(outer=maps[z - k], inner=invert_affine(maps[z]))
    return out


def found(affines: Float64Array, *, rejected: Sequence[tuple[int, int]] = ()) -> dict[int, Affine]:
    trusted: BoolArray = np.asarray(np.isfinite(affines).all(axis=(2, 3)), dtype=np.bool_)
    accepted = trusted.copy()
    for pair in rejected:
        accepted[pair] = False
    maps = outlying_maps(affines, accepted, trusted=trusted, shape_yx=_SHAPE)
    return {z: m for z, m in enumerate(maps) if not np.array_equal(m, IDENTITY)}


@pytest.mark.parametrize("seed", range(4))
def test_distortion_alone_is_not_outlying(seed: int) -> None:
    assert found(pairs({}, seed=seed)) == {}


@pytest.mark.parametrize("z", [0, 7, 15])
def test_a_shift_by_a_third_is_and_keeps_the_rotation_of_the_section(z: int) -> None:
    shift = np.array([[1.0, 0.0, 4.0], [0.0, 1.0, 150.0]])
    maps = found(pairs({z: shift}, seed=2))
    assert set(maps) == {z}
    assert np.linalg.norm(maps[z][:, 2] - shift[:, 2]) < 30
    np.testing.assert_array_equal(maps[z][:, :2], np.eye(2))


def test_a_section_that_is_larger_is_outlying_in_its_scale_alone() -> None:
    larger = rotation_about(degrees=0.0, centre=(250, 250), scale=1.1)
    maps = found(pairs({7: larger}, seed=2))
    assert set(maps) == {7}
    np.testing.assert_allclose(maps[7], larger, atol=1.0)


def test_a_jump_is_none() -> None:
    shift = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 150.0]])
    assert found(pairs(dict.fromkeys(range(8, _COUNT), shift), seed=2)) == {}


def test_one_pair_is_enough_for_a_displacement_that_is_far_larger_than_usual() -> None:
    turned = rotation_about(degrees=40.0, centre=(250, 250))
    affines = pairs({7: turned}, seed=2)
    affines[:, 7] = np.nan
    affines[1:, 9:11] = np.nan  # leaves 8 → 7 alone
    affines[1, 8] = affines[2, 10] = np.nan
    assert set(found(affines)) == {7}


def test_pairs_that_were_found_but_not_used_are_witnesses() -> None:
    """Sections that overlap little are placed badly, so that two of three pairs contradict the third by some px."""
    shift = np.array([[1.0, 0.0, 4.0], [0.0, 1.0, 100.0]])
    affines = pairs({7: shift}, seed=2)
    affines[0, 7:9] = affines[2, 7] = affines[2, 10] = np.nan
    affines[1, 9, 1, 2] += 20.0
    assert set(found(affines)) == {7}
    assert set(found(affines, rejected=[(1, 9)])) == {7}
    affines[1, 9] = np.nan
    assert found(affines) == {}


@pytest.mark.parametrize("seed", range(4))
def test_a_section_of_one_pair_is_not_outlying_by_distortion(seed: int) -> None:
    affines = pairs({}, seed=seed)
    affines[1:, -1] = np.nan
    assert found(affines) == {}
