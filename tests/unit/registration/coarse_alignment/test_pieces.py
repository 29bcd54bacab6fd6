"""Pieces of a stack are placed by wide pairs that agree, in whatever way they were turned, and by nothing else."""

import numpy as np
import pytest

from ssem_dask.field.affine import IDENTITY, Affine, compose_affine, invert_affine, rotation_about
from ssem_dask.registration.coarse_alignment.pieces import (
    REACH,
    PlacedPieces,
    WidePairs,
    describe_gross,
    label_pieces,
    pairs_to_search,
    place_pieces,
    simplified,
)
from ssem_dask.types import BoolArray, Float64Array

_SHAPE = (400, 300)
_COUNT = 14
_HALF_TURN = rotation_about(degrees=180.0, centre=(200.0, 150.0))
_MIRROR = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 300.0]])


def distorted(gross: Affine, seed: int) -> Affine:
    """A map near a gross one."""
    rng = np.random.default_rng(seed)
    small = rotation_about(degrees=rng.uniform(-1, 1), centre=(200, 150), shift=tuple(rng.uniform(-6, 6, 2)))
    return compose_affine(outer=gross, inner=small)


def stack(gross: dict[int, Affine], lost: tuple[int, ...] = ()) -> tuple[Float64Array, WidePairs]:
    """Ratios of the usual search, which finds pairs of equal gross maps, and true wide pairs of all others."""
    maps = [distorted(gross.get(z, IDENTITY), z) for z in range(_COUNT)]
    ratios = np.full((3, _COUNT), np.nan)
    affines, wide = np.full((REACH, _COUNT, 2, 3), np.nan), np.zeros((REACH, _COUNT))
    rng = np.random.default_rng(4)
    for z in range(_COUNT):
        for k in range(1, min(z, REACH) + 1):
            alike = np.allclose(gross.get(z, IDENTITY), gross.get(z - k, IDENTITY)) and not {z, z - k} & {*lost}
            if k <= 3:
                ratios[k - 1, z] = 2.0 if alike else 1.1
            true = compose_affine(outer=maps[z - k], inner=invert_affine(maps[z]))
            chance = rotation_about(
                degrees=rng.uniform(0, 360), centre=(200, 150), shift=tuple(rng.uniform(-90, 90, 2))
            )
            affines[k - 1, z] = chance if {z, z - k} & {*lost} else true
            wide[k - 1, z] = 1.4
    return ratios, WidePairs(affines, wide, np.zeros(wide.shape, dtype=bool))


def place(ratios: Float64Array, wide: WidePairs, *, given: dict[int, Affine] | None = None) -> PlacedPieces:
    start = np.tile(IDENTITY, (_COUNT, 1, 1))
    known: BoolArray = np.zeros(_COUNT, dtype=bool)
    for z, affine in (given or {}).items():
        start[z], known[z] = affine, True
    labels = label_pieces(ratios, least=1.3)
    return place_pieces(wide, labels, start=start, given=known, least=1.3, shape_yx=_SHAPE)


@pytest.mark.parametrize(
    "gross",
    [
        {5: _HALF_TURN},
        {0: _HALF_TURN, 13: _MIRROR},
        {5: _HALF_TURN, 6: _HALF_TURN, 7: _HALF_TURN, 8: _HALF_TURN},
        {4: _MIRROR, 5: _HALF_TURN, 6: rotation_about(degrees=90.0, centre=(200.0, 150.0))},
    ],
)
def test_pieces_of_one_section_or_several_are_placed(gross: dict[int, Affine]) -> None:
    ratios, wide = stack(gross)
    placed = place(ratios, wide)
    assert set(gross) <= set(np.flatnonzero(placed.found))
    for z in range(_COUNT):
        np.testing.assert_allclose(placed.gross[z], gross.get(z, IDENTITY), atol=1e-6)


def test_a_section_of_another_place_stays_where_it_was() -> None:
    ratios, wide = stack({}, lost=(6,))
    placed = place(ratios, wide)
    assert not placed.found.any()
    assert not placed.believed.any()
    np.testing.assert_array_equal(placed.gross, np.tile(IDENTITY, (_COUNT, 1, 1)))


def test_what_is_given_of_a_section_stays_and_reaches_no_other() -> None:
    ratios, wide = stack({5: _HALF_TURN}, lost=(9,))
    given = distorted(_HALF_TURN, 99)
    placed = place(ratios, wide, given={5: given})
    np.testing.assert_array_equal(placed.gross[5], given)
    assert not placed.found.any()
    np.testing.assert_array_equal(np.delete(placed.gross, 5, axis=0), np.tile(IDENTITY, (_COUNT - 1, 1, 1)))


def test_few_pairs_are_searched_and_only_for_pieces_that_show_tissue() -> None:
    ratios, _ = stack({5: _HALF_TURN})
    nobody = np.zeros(_COUNT, dtype=bool)
    searched = pairs_to_search(ratios, least=1.3, given=nobody)
    assert {z for _, z in searched} == {5}
    assert {pair for pair, _ in searched} == {(5, 1), (5, 2), (5, 3), (6, 1), (7, 2), (8, 3)}
    sound, _ = stack({})
    assert pairs_to_search(sound, least=1.3, given=nobody) == []
    ratios[:, 5] = 0.0
    for k in range(1, 4):
        ratios[k - 1, 5 + k] = 0.0
    assert pairs_to_search(ratios, least=1.3, given=nobody) == []


def test_only_what_is_too_large_for_distortion_is_gross() -> None:
    for gross in (IDENTITY, _HALF_TURN, _MIRROR):
        np.testing.assert_allclose(simplified(distorted(gross, 3), _SHAPE), gross, atol=1e-9)
    found = simplified(rotation_about(degrees=40.0, centre=(200.0, 150.0), shift=(3.0, 90.0), scale=1.08), _SHAPE)
    assert describe_gross(found, inverted=True, shape_yx=_SHAPE) == [
        "turned by 40°",
        "8% larger",
        "shifted by 3, 90 px (y, x)",
        "of inverted contrast",
    ]
    assert describe_gross(distorted(IDENTITY, 1), inverted=False, shape_yx=_SHAPE) == []
