"""Label overlap and similarity: known answers, and the published figures on real labels."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.evaluation.metrics.labels import label_overlap, mean_overlap
from ssem_dask.image.similarity import chunked_correlation, normalised_correlation


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape, dtype=bool)


def test_overlap_of_two_squares() -> None:
    first, second = np.zeros((40, 40), np.uint64), np.zeros((40, 40), np.uint64)
    first[:20, :20] = second[:20, 5:25] = 2**40 + 1  # Dice 0.75, 400 px each
    first[30:40, :10] = second[30:40, :10] = 2**40  # Dice 1, 100 px each
    first[25, :10] = second[25, :10] = 7  # too small to count
    first[22:29, 30:] = 9  # in one section only
    overlap = label_overlap(first, second, valid=everywhere(first))
    assert overlap.dice_mean == pytest.approx(0.875)
    assert overlap.dice_weighted == pytest.approx((0.75 * 800 + 200) / 1000)
    assert overlap.iou_mean == pytest.approx((0.6 + 1) / 2)
    assert overlap.iou_weighted == pytest.approx((0.6 * 800 + 200) / 1000)
    valid = everywhere(first)
    valid[:, :5] = valid[:, 20:] = False
    assert label_overlap(first, second, valid=valid).dice_mean == pytest.approx(1.0)


def test_overlap_of_nothing_is_unknown_and_left_out_of_the_mean() -> None:
    empty = np.zeros((20, 20), np.uint8)
    unknown = label_overlap(empty, empty, valid=everywhere(empty))
    known = label_overlap(empty + 1, empty + 1, valid=everywhere(empty))
    assert math.isnan(unknown.dice_mean)
    assert mean_overlap([unknown, known]) == known
    assert math.isnan(mean_overlap([unknown]).dice_mean)


@pytest.mark.parametrize(("shift", "mean", "weighted"), [(0, 0.72, 0.85), (5, 0.52, 0.76)])
def test_dice_of_real_neurites_is_the_published_one(
    shift: int, mean: float, weighted: float, real_sections: Callable[[str], Path]
) -> None:
    sections = tifffile.imread(real_sections("flyem_fibsem/labels.tif"))[::4]
    valid = everywhere(sections[0])
    valid[:, :shift] = False
    overlap = mean_overlap([label_overlap(a, np.roll(b, shift, axis=1), valid=valid) for a, b in pairwise(sections)])
    assert overlap.dice_mean == pytest.approx(mean, abs=0.03)
    assert overlap.dice_weighted == pytest.approx(weighted, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.1, 10.0), offset=st.floats(-100.0, 100.0))
def test_correlation_ignores_gain_and_offset(seed: int, gain: float, offset: float) -> None:
    generator = np.random.default_rng(seed)
    first = generator.standard_normal((64, 64))
    second = first + generator.standard_normal((64, 64))
    valid = generator.random((64, 64)) < 0.8
    plain = normalised_correlation(first, second, valid=valid)
    assert plain == pytest.approx(np.corrcoef(first[valid], second[valid])[0, 1], abs=1e-9)
    assert normalised_correlation(first * gain + offset, second, valid=valid) == pytest.approx(plain, abs=1e-9)
    assert normalised_correlation(-first, second, valid=valid) == pytest.approx(-plain, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_correlation_of_images_that_are_looked_at_in_parts(share: float) -> None:
    generator = np.random.default_rng(5)
    slope = np.linspace(0, 200, 500)[:, None]  # parts differ in their means
    first = (slope + generator.uniform(0, 50, (500, 301))).astype(np.float32)
    second = (first + generator.uniform(0, 50, first.shape)).astype(np.uint8)
    valid = generator.random(first.shape) <= share
    valid[200:400] &= share == 1.0
    valid[450:] = True
    expected = np.corrcoef(first[valid].astype(float), second[valid].astype(float))[0, 1]
    assert normalised_correlation(first, second, valid=valid) == pytest.approx(expected, abs=1e-9)


def test_chunked_correlation_is_the_mean_over_squares() -> None:
    generator = np.random.default_rng(3)
    first = generator.standard_normal((70, 140))
    second = first.copy()
    second[:32, :32] *= -1  # one of the eight squares of 32 px
    second[:, 130:] = 5.0  # beyond the last whole square
    valid = everywhere(first)
    assert chunked_correlation(first, second, valid=valid, side=32) == pytest.approx((7 - 1) / 8)
    valid[:20, :32] = False  # more than half of that square
    assert chunked_correlation(first, second, valid=valid, side=32) == pytest.approx(1.0)
    assert math.isnan(chunked_correlation(first, second, valid=valid, side=71))


def test_invalid_pixels_do_not_count_in_a_chunk() -> None:
    generator = np.random.default_rng(4)
    first = generator.standard_normal((64, 64))
    second = first.copy()
    second[:10] = 1e6
    valid = everywhere(first)
    valid[:10] = False
    assert chunked_correlation(first, second, valid=valid, side=64) == pytest.approx(1.0)


def test_constant_images_have_no_correlation() -> None:
    flat = np.full((64, 64), 7, np.uint8)
    assert math.isnan(normalised_correlation(flat, flat, valid=everywhere(flat)))
    assert math.isnan(chunked_correlation(flat, flat, valid=everywhere(flat), side=32))
    assert math.isnan(normalised_correlation(flat, flat, valid=~everywhere(flat)))
