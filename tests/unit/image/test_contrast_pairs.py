"""Comparison of the contrast of two images."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ssem_dask.image.contrast_pairs import compare_contrast
from ssem_dask.types import Float64Array


def tissue(seed: int, shape: tuple[int, int] = (256, 320)) -> Float64Array:
    pattern = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return 120 + 30 * pattern / pattern.std()


def neighbours(seed: int, shape: tuple[int, int] = (256, 320)) -> tuple[Float64Array, Float64Array]:
    """Two images that share three quarters of their variance."""
    common = tissue(seed, shape) - 120
    return tuple(120 + common * 0.87 + (tissue(seed + n, shape) - 120) * 0.5 for n in (1000, 2000))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(256, 320), (64, 512), (96, 96)])
def test_gain_and_level_are_measured(shape: tuple[int, int]) -> None:
    for seed in range(4):
        one, other = neighbours(seed, shape)
        pair = compare_contrast(120 + (one - 120) * 0.6 + 15, other, valid=np.ones(shape, bool))
        assert pair.log_gain == pytest.approx(math.log(0.6), abs=0.08)
        assert pair.level == pytest.approx(15, abs=5)
        assert pair.middle - pair.middle_other == pytest.approx(15, abs=8)
        assert pair.share > 0.5
        assert pair.likeness > 0.5


def test_exchanging_the_images_changes_the_sign() -> None:
    one, other = neighbours(1)
    valid = np.ones(one.shape, bool)
    there, back = compare_contrast(one * 0.8, other, valid=valid), compare_contrast(other, one * 0.8, valid=valid)
    assert there.log_gain == pytest.approx(-back.log_gain)
    assert there.level == pytest.approx(-back.level)


def test_damage_on_a_third_of_the_section_changes_little() -> None:
    one, other = neighbours(2)
    dirty = one.copy()
    dirty[:80, :] = 10.0
    dirty[100:150, 50:120] = tissue(99)[:50, :70] * 2
    valid = np.ones(one.shape, bool)
    clean, spoilt = compare_contrast(one, other, valid=valid), compare_contrast(dirty, other, valid=valid)
    assert spoilt.log_gain == pytest.approx(clean.log_gain, abs=0.03)
    assert spoilt.level == pytest.approx(clean.level, abs=2)
    assert spoilt.share < clean.share


def test_pixels_that_are_not_valid_do_not_count() -> None:
    one, other = neighbours(3)
    valid = np.ones(one.shape, bool)
    valid[:, :150] = False
    hidden = np.where(valid, one, 255.0)
    first, second = compare_contrast(one, other, valid=valid), compare_contrast(hidden, other, valid=valid)
    assert first == second
    assert first.share < 0.6


@pytest.mark.parametrize(
    "other",
    [tissue(50), np.full((256, 320), 77.0), np.random.default_rng(0).normal(128, 40, (256, 320)), 255 - tissue(4)],
    ids=["foreign", "constant", "noise", "inverted"],
)
def test_what_is_unlike_is_hardly_compared(other: Float64Array) -> None:
    pair = compare_contrast(tissue(4), other, valid=np.ones((256, 320), bool))
    assert pair.share < 0.1
    assert pair.likeness < 0.1


def test_nothing_in_common_is_unknown() -> None:
    pair = compare_contrast(tissue(5), tissue(5), valid=np.zeros((256, 320), bool))
    assert math.isnan(pair.log_gain)
    assert math.isnan(pair.level)
    assert pair.share == 0
