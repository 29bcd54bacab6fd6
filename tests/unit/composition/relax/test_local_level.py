"""The affine level of a few sections after a change of their pairs."""

import numpy as np

from ssem_dask.composition.relax.local_level import LevelRows, LocalPairs, updated_level
from ssem_dask.composition.separation.affine_log import from_parameters, to_parameters
from ssem_dask.composition.separation.affine_separation import KnownStatistics, separate_affines
from ssem_dask.field.affine import IDENTITY
from ssem_dask.types import BoolArray, Float64Array
from tests.support.affine_volumes import SHAPE, THICKNESS, affine_volume

COUNT, AT = 40, 20


def fitted() -> tuple[LevelRows, LocalPairs, KnownStatistics]:
    volume = affine_volume(4, count=COUNT)
    places = np.tile(IDENTITY, (COUNT, 1, 1))
    found = separate_affines(
        volume.pairs,
        np.asarray(np.isfinite(volume.pairs).all(axis=(2, 3)), dtype=np.float64),
        shape_yx=SHAPE,
        thickness=THICKNESS,
        certainty=1.0,
        undo_jumps=False,
    )
    level = LevelRows(found.sections, from_parameters(found.motion, shape_yx=SHAPE), np.ones((COUNT, 2)))
    return (
        level,
        LocalPairs(volume.pairs, np.ones(volume.pairs.shape[:2]), places),
        KnownStatistics(found.variances, 1.0),
    )


def update(
    level: LevelRows, before: LocalPairs, after: LocalPairs, known: KnownStatistics, moved: BoolArray
) -> LevelRows:
    distance = np.abs(np.arange(COUNT) - AT)
    weight = np.where(distance <= 4, 1.0, np.clip((8 - distance) / 4, 0.0, 1.0))
    return updated_level(
        level,
        before=before,
        after=after,
        weight=weight,
        moved=moved,
        shape_yx=SHAPE,
        thickness=THICKNESS,
        known=known,
    )


def shifts(rows: Float64Array) -> Float64Array:
    return to_parameters(rows, shape_yx=SHAPE)[:, :2]


def test_pairs_that_did_not_change_change_nothing() -> None:
    level, pairs, known = fitted()
    same = update(level, pairs, pairs, known, np.zeros(COUNT, dtype=bool))
    np.testing.assert_allclose(same.correction, level.correction, atol=1e-9)
    np.testing.assert_allclose(same.natural, level.natural, atol=1e-9)
    np.testing.assert_allclose(same.variance, level.variance, atol=1e-12)


def test_a_section_that_moved_is_found_and_what_is_far_stays_to_the_bit() -> None:
    """A section was compared at a wrong place, 30 px off, in all of its pairs; its right pairs put it back."""
    level, right, known = fitted()
    wrong = right.affines.copy()
    for k in range(3):
        wrong[k, AT, 0, 2] += 30.0
        wrong[k, AT + k + 1, 0, 2] -= 30.0
    moved = np.arange(COUNT) == AT
    at_wrong = update(level, right, LocalPairs(wrong, right.weights, right.places), known, moved)
    assert abs(abs(shifts(at_wrong.correction)[AT, 0] - shifts(level.correction)[AT, 0]) - 30) < 3
    far = np.abs(np.arange(COUNT) - AT) >= 8
    np.testing.assert_array_equal(at_wrong.correction[far], level.correction[far])
    np.testing.assert_array_equal(at_wrong.natural[far], level.natural[far])
    near = (np.abs(np.arange(COUNT) - AT) < 8) & ~moved
    assert np.abs(shifts(at_wrong.correction)[near] - shifts(level.correction)[near]).max() < 3


def test_a_section_that_is_left_out_is_placed_between_its_neighbours() -> None:
    level, pairs, known = fitted()
    without = pairs.affines.copy()
    for k in range(3):
        without[k, AT] = without[k, AT + k + 1] = np.nan
    after = update(level, pairs, LocalPairs(without, pairs.weights, pairs.places), known, np.arange(COUNT) == AT)
    # Without any pair its distortion is not known, so none is undone.
    np.testing.assert_allclose(shifts(after.correction)[AT], 0, atol=0.5)
    assert after.variance[AT, 0] > 10 * after.variance[AT - 6, 0]


def test_without_statistics_the_level_stays() -> None:
    level, pairs, _ = fitted()
    nothing = KnownStatistics({}, 0.0)
    assert update(level, pairs, pairs, nothing, np.zeros(COUNT, dtype=bool)) is level
