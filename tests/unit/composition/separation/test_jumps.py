"""Jumps: a displacement of all later sections alike is found, undone and reported; nothing else is."""

import numpy as np
import pytest

from ssem_dask.composition.relax.relax_report import JumpRecord, describe_jumps
from ssem_dask.composition.separation.affine_log import from_parameters
from ssem_dask.composition.separation.affine_separation import separate_affines
from ssem_dask.composition.separation.jumps import longest_piece
from ssem_dask.types import Float64Array
from tests.support.affine_volumes import SHAPE, affine_volume

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("jump", "most"),
    [([40.0, -20.0, 0, 0, 0, 0], 0.25), ([0, 0, 30.0, 0, 0, 0], 0.35), ([300.0, -20.0, 50.0, 8.0, 0, 0], 0.1)],
)
def test_a_jump_is_found_and_undone(jump: list[float], most: float) -> None:
    made = affine_volume(0, count=40, jumps={14: jump})
    kept, undone = made.separated(undo_jumps=False), made.separated()
    assert kept.jumps == ()
    assert [jump.z for jump in undone.jumps] == [14]
    before, after = (np.linalg.norm(made.errors(found), axis=1).max() for found in (kept, undone))
    assert after < most * before
    size = np.linalg.norm(jump)
    assert np.linalg.norm(undone.jumps[0].step + jump) < 0.35 * size  # s takes z to z-1, hence the sign


def test_two_jumps() -> None:
    made = affine_volume(1, count=44, jumps={12: [60.0, 0, 30.0, 0, 0, 0], 28: [-80.0, 20.0, 0, 5.0, 0, 0]})
    assert [jump.z for jump in made.separated().jumps] == [12, 28]


def test_without_a_jump_none_is_found_and_nothing_changes() -> None:
    for seed, count in ((2, 16), (3, 40)):
        made = affine_volume(seed, count=count)
        found, plain = made.separated(), made.separated(undo_jumps=False)
        assert found.jumps == ()
        np.testing.assert_array_equal(found.sections, plain.sections)


def test_a_section_that_is_displaced_by_itself_is_no_jump() -> None:
    made = affine_volume(4, count=30, jumps={15: [90.0, 30.0, 20.0, 0, 0, 0], 16: [-90.0, -30.0, -20.0, 0, 0, 0]})
    found = made.separated()
    assert found.jumps == ()
    assert np.linalg.norm(made.errors(found), axis=1).max() < 10.0


def test_a_jump_too_small_to_be_found_can_be_named() -> None:
    made = affine_volume(5, count=30, jumps={15: [7.0, 0, 0, 0, 0, 0]})
    assert made.separated().jumps == ()
    found = made.separated(known_jumps=(15,))
    assert [jump.z for jump in found.jumps] == [15]
    before, after = (np.abs(made.errors(f)[:, 0]).max() for f in (made.separated(), found))
    assert after < before


def test_the_longest_piece_stays_where_it_is() -> None:
    assert longest_piece([], count=9) == 0
    assert longest_piece([3], count=9) == 3
    made = affine_volume(6, count=40, jumps={10: [50.0, 0, 0, 0, 0, 0]})
    left = made.separated().sections[:, 0, 2]
    assert abs(left[10:].mean()) < 10.0
    assert left[:10].mean() < -30.0


def test_a_jump_is_told_in_px_degrees_and_per_cent() -> None:
    made = affine_volume(7, count=40, jumps={20: [40.0, -20.0, 30.0, 0, 0, 0]})
    (jump,) = made.separated().jumps
    record = JumpRecord.of(jump, shape_yx=SHAPE)
    assert record.z == 20
    assert record.displacement.shift_y_px == pytest.approx(40.0, abs=8.0)
    assert record.displacement.rotation_degrees == pytest.approx(
        np.rad2deg(30.0 / (np.hypot(*SHAPE) / 12**0.5)), rel=0.2
    )
    (sentence,) = describe_jumps([record])
    assert "20 (" in sentence
    assert describe_jumps([]) == []


def test_one_spoilt_section_makes_no_jump_and_a_true_one_is_found_beside_it() -> None:
    """All pairs of section 12 with those before it are off by one step; the pairs across it show nothing."""
    shape, rng, count = (600, 600), np.random.default_rng(3), 24

    def maps(offset: float) -> Float64Array:
        section = rng.normal(0.0, 1.0, (count, 6))
        shown = np.zeros((3, count, 6))
        for k in range(1, 4):
            shown[k - 1, k:] = section[:-k] - section[k:] + rng.normal(0.0, 0.1, (count - k, 6))
            for z in range(k, count):
                if z - k < 12 <= z and (z == 12 or offset):
                    shown[k - 1, z, 1] += offset or 40.0
        return from_parameters(shown, shape_yx=shape)

    for offset, wanted in ((0.0, []), (40.0, [12])):
        found = separate_affines(maps(offset), np.ones((3, count)), shape_yx=shape, thickness=10.0, certainty=None)
        assert [jump.z for jump in found.jumps] == wanted
