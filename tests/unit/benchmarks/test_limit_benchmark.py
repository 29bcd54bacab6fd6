"""The best linear estimate where it is known what it leaves."""

import numpy as np
import pytest

from benchmarks.limit import remaining_error


def test_without_motion_all_of_distortion_is_found_but_a_constant_course() -> None:
    """A drift that cannot be distinguished from a tilt of the tissue."""
    distortion = np.random.default_rng(0).normal(size=(61, 2, 6, 6))
    left = remaining_error(np.zeros((60, 2, 6, 6)), distortion)
    np.testing.assert_allclose(left, np.broadcast_to(np.diff(distortion, axis=0).mean(axis=0), left.shape), atol=1e-9)


def test_where_motion_is_far_larger_distortion_stays_in() -> None:
    random = np.random.default_rng(1)
    distortion, motion = random.normal(size=(61, 2, 6, 6)), 1e4 * random.normal(size=(60, 2, 6, 6))
    left = remaining_error(motion, distortion)
    assert float(np.sqrt(np.square(left).mean())) == pytest.approx(np.diff(distortion, axis=0).std(), rel=0.02)


def test_of_two_that_are_alike_less_is_left_than_of_either() -> None:
    random = np.random.default_rng(2)
    distortion, motion = random.normal(size=(401, 2, 6, 6)), 1.4 * random.normal(size=(400, 2, 6, 6))
    left = np.sqrt(np.square(remaining_error(motion, distortion)).mean())
    white = 2.0 - 2.0 * np.cos(np.linspace(0, np.pi, 999))
    assert left == pytest.approx(np.sqrt(np.mean(white * 1.96 / (white + 1.96))), rel=0.05)
