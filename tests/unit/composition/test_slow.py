"""Slow distortion: left in as motion of the tissue, and undone where landmarks or far pairs pin it."""

import numpy as np
import pytest

from ssem_dask.composition.relax.relax_report import slow_in_words, slow_record
from ssem_dask.composition.separation.affine_log import from_parameters
from ssem_dask.composition.separation.anchored import Beside, FarPairs, Landmarks, SlowSolver
from ssem_dask.field.affine import rotation_about
from ssem_dask.types import Float64Array
from tests.unit.composition.affine_volumes import SHAPE, AffineVolume, affine_volume, homogeneous, slow_drift

COUNT = 40
FRAME = homogeneous(rotation_about(degrees=30, centre=(0, 0), shift=(100, 50), scale=0.2))
"""Aligned → reference: turned, shifted, and with pixels five times as large."""


def landmarks(
    made: AffineVolume, rng: np.random.Generator, *, count: int = COUNT, every: int = 8, wrong: int = 0
) -> Landmarks:
    """Four landmarks in every eighth section, 2 px off; the first ones by 60."""
    z = np.repeat(np.arange(2, count, every), 4)
    true = rng.random((len(z), 2)) * SHAPE
    source = np.einsum("nij,nj->ni", made.maps[z, :2, :2], true) + made.maps[z, :2, 2] + rng.normal(size=true.shape) * 2
    source[3 : 3 + 5 * wrong : 5] += 60
    return Landmarks(z, source, true @ FRAME[:2, :2].T + FRAME[:2, 2], np.full(len(z), 2.0))


def far_pairs(made: AffineVolume, rng: np.random.Generator, *, count: int = COUNT) -> FarPairs:
    """8, 16 and 32 apart; of no worth for shift and shear."""
    z = np.concatenate([np.arange(k, count) for k in (8, 16, 32)])
    k = np.concatenate([np.full(count - k, k) for k in (8, 16, 32)])
    noise = homogeneous(from_parameters(rng.normal(size=(len(z), 6)) * [9, 9, 1, 1, 5, 5], shape_yx=SHAPE))
    return FarPairs(z, k, (made.maps[z - k] @ noise @ np.linalg.inv(made.maps[z]))[:, :2])


def wander(errors: Float64Array) -> Float64Array:
    """Largest error along z of shift (y, x), rotation and scale, px."""
    return np.asarray(np.abs(errors).max(axis=0))[:4]


@pytest.mark.parametrize("seed", [1, 2])
def test_landmarks_pin_what_passes_for_motion(seed: int) -> None:
    made, rng = affine_volume(seed, count=COUNT, slow=slow_drift(COUNT)), np.random.default_rng(seed)
    solver = SlowSolver(Beside(landmarks(made, rng, wrong=2), None, adopt=False), SHAPE)
    without, pinned = made.separated(), made.separated(slow=solver)
    before, after = wander(made.errors(without)), wander(made.errors(pinned))
    assert before[0] > 25
    assert before[2] > 7
    assert after[0] < 0.3 * before[0]
    assert after[2] < 0.4 * before[2]
    found = solver.found()
    np.testing.assert_array_equal(found.doubted, [3, 8])
    assert np.median(found.misses) < 5
    assert found.frame is not None
    np.testing.assert_allclose(found.frame[:, :2], np.linalg.inv(FRAME)[:2, :2], atol=0.5)  # 8 % swelling in between
    words = slow_in_words(slow_record(found, shape_yx=SHAPE))
    assert "Down-weighted 2 landmarks inconsistent with the rest" in words[1]
    assert "rows of the file): 4, 9" in words[1]


def test_landmarks_do_no_harm_where_nothing_is_slow() -> None:
    made, rng = affine_volume(3, count=COUNT), np.random.default_rng(3)
    solver = SlowSolver(Beside(landmarks(made, rng), None, adopt=False), SHAPE)
    left = [made.errors(found) for found in (made.separated(), made.separated(slow=solver))]
    jitter = [np.sqrt((np.diff(e, axis=0) ** 2).sum(axis=1).mean()) for e in left]
    assert jitter[1] < 1.1 * jitter[0]
    assert (wander(left[1]) < wander(left[0]) + 1.5).all()


def test_far_pairs_pin_rotation_and_scale_alone() -> None:
    made, rng = affine_volume(4, count=COUNT, slow=slow_drift(COUNT)), np.random.default_rng(4)
    far = far_pairs(made, rng)
    far.affines[::9] = np.eye(3)[:2] * 1.2  # some are simply wrong
    solver = SlowSolver(Beside(None, far, adopt=False), SHAPE)
    before, after = (wander(made.errors(f)) for f in (made.separated(), made.separated(slow=solver)))
    assert after[2] < 0.3 * before[2]
    assert after[3] < 0.75 * before[3]
    np.testing.assert_allclose(after[:2], before[:2], rtol=0.15)
    assert solver.found().far_doubted >= 5
    assert solver.found().frame is None


def test_a_jump_and_slow_distortion_together() -> None:
    made = affine_volume(5, count=COUNT, slow=0.5 * slow_drift(COUNT), jumps={18: [80.0, 40.0, 30.0, 0, 0, 0]})
    solver = SlowSolver(Beside(landmarks(made, np.random.default_rng(5)), None, adopt=False), SHAPE)
    found = made.separated(slow=solver)
    assert [b.z for b in found.breaks] == [18]
    assert (wander(made.errors(found))[:3] < 7).all()
