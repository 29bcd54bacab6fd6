"""Slow distortion: left in as motion of the tissue, and undone where landmarks or far pairs pin it."""

import numpy as np
import pytest

from ssem_dask.composition.relax.relax_report import DriftRecord, describe_drift
from ssem_dask.composition.separation.anchor_observations import Anchors
from tests.support.affine_volumes import COUNT, FRAME, SHAPE, affine_volume, far_pairs, landmarks, slow_drift, wander

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_landmarks_pin_what_passes_for_motion(seed: int) -> None:
    made, rng = affine_volume(seed, count=COUNT, slow=slow_drift(COUNT)), np.random.default_rng(seed)
    anchors = Anchors(landmarks(made, rng, wrong=2), None, use_reference_frame=False)
    without, pinned = made.separated(), made.separated(anchors=anchors)
    before, after = wander(made.errors(without)), wander(made.errors(pinned))
    assert before[0] > 25
    assert before[2] > 7
    assert after[0] < 0.3 * before[0]
    assert after[2] < 0.4 * before[2]
    drift = pinned.drift
    assert drift is not None
    np.testing.assert_array_equal(drift.landmark_outliers, [3, 8])
    assert np.median(drift.landmark_errors) < 5
    assert drift.frame is not None
    np.testing.assert_allclose(drift.frame[:, :2], np.linalg.inv(FRAME)[:2, :2], atol=0.5)  # 8 % swelling in between
    words = describe_drift(DriftRecord.of(drift, shape_yx=SHAPE))
    assert "Down-weighted 2 landmarks inconsistent with the rest" in words[1]
    assert "rows of the file): 4, 9" in words[1]


def test_landmarks_do_no_harm_where_nothing_is_slow() -> None:
    made, rng = affine_volume(3, count=COUNT), np.random.default_rng(3)
    anchors = Anchors(landmarks(made, rng), None, use_reference_frame=False)
    left = [made.errors(found) for found in (made.separated(), made.separated(anchors=anchors))]
    jitter = [np.sqrt((np.diff(e, axis=0) ** 2).sum(axis=1).mean()) for e in left]
    assert jitter[1] < 1.1 * jitter[0]
    assert (wander(left[1]) < wander(left[0]) + 1.5).all()


def test_far_pairs_pin_rotation_and_scale_alone() -> None:
    made, rng = affine_volume(4, count=COUNT, slow=slow_drift(COUNT)), np.random.default_rng(4)
    far = far_pairs(made, rng)
    far.affines[::9] = np.eye(3)[:2] * 1.2  # some are simply wrong
    anchors = Anchors(None, far, use_reference_frame=False)
    pinned = made.separated(anchors=anchors)
    before, after = (wander(made.errors(f)) for f in (made.separated(), pinned))
    assert after[2] < 0.3 * before[2]
    assert after[3] < 0.75 * before[3]
    np.testing.assert_allclose(after[:2], before[:2], rtol=0.15)
    assert pinned.drift is not None
    assert pinned.drift.far_outliers >= 5
    assert pinned.drift.frame is None


def test_a_jump_and_slow_distortion_together() -> None:
    made = affine_volume(5, count=COUNT, slow=0.5 * slow_drift(COUNT), jumps={18: [80.0, 40.0, 30.0, 0, 0, 0]})
    anchors = Anchors(landmarks(made, np.random.default_rng(5)), None, use_reference_frame=False)
    found = made.separated(anchors=anchors)
    assert [jump.z for jump in found.jumps] == [18]
    assert (wander(made.errors(found))[:3] < 7).all()
