"""Gains and offsets of sections from comparisons of neighbours."""

from dataclasses import replace

import numpy as np
import pytest

from ssem_dask.composition.section_contrast import (
    MAX_GAIN,
    MAX_SHIFT,
    ContrastPairs,
    SectionContrast,
    match_contrast,
    solve_corrections,
)
from ssem_dask.types import BoolArray, Float64Array

SPREAD, LEVEL, REACH = 30.0, 120.0, 3


def compared(log_gain: Float64Array, level: Float64Array, *, noise: float = 0.01, seed: int = 0) -> ContrastPairs:
    """Pairs of sections with these spreads and levels, measured with noise."""
    generator = np.random.default_rng(seed)
    count = len(level)
    values = {name: np.full((REACH, count), np.nan) for name in ("log_gain", "level", "middle", "middle_other")}
    for k in range(1, REACH + 1):
        errors = generator.normal(0, noise, (2, count - k)) * np.sqrt(k)
        values["log_gain"][k - 1, k:] = log_gain[k:] - log_gain[:-k] + errors[0]
        values["level"][k - 1, k:] = level[k:] - level[:-k] + SPREAD * errors[1]
        values["middle"][k - 1, k:], values["middle_other"][k - 1, k:] = level[k:], level[:-k]
    filled = {name: np.where(np.isnan(values["level"]), np.nan, 1.0) for name in ("spread", "likeness", "share")}
    filled["spread"] *= SPREAD
    filled["share"] = np.nan_to_num(filled["share"]) * 0.8
    return ContrastPairs(**values, **filled)


def solved(pairs: ContrastPairs, usable: BoolArray | None = None) -> SectionContrast:
    count = pairs.level.shape[1]
    return match_contrast(pairs, usable=np.ones(count, bool) if usable is None else usable, limit=255.0)


def corrected(contrast: SectionContrast, log_gain: Float64Array, level: Float64Array) -> tuple[Float64Array, ...]:
    """Log gains and levels after the correction."""
    return log_gain + np.log(contrast.gain), contrast.gain * level + contrast.offset


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [20, 200])
def test_changes_of_single_sections_are_taken_back(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    log_gain, level = generator.normal(0, 0.2, count), LEVEL + generator.normal(0, 12, count)
    after = corrected(solved(compared(log_gain, level, seed=seed)), log_gain, level)
    for before, now in zip((log_gain, level), after, strict=True):
        assert np.diff(now).std() < 0.12 * np.diff(before).std()
        assert now.std() < 0.35 * before.std()


def test_a_slow_change_of_the_block_stays() -> None:
    generator = np.random.default_rng(1)
    z = np.arange(3000) / 3000
    slow_gain, slow_level = 0.4 * np.sin(2 * np.pi * z), LEVEL + 40 * z
    log_gain, level = slow_gain + generator.normal(0, 0.15, 3000), slow_level + generator.normal(0, 8, 3000)
    after = corrected(solved(compared(log_gain, level, noise=0.02)), log_gain, level)
    assert np.abs(after[0] - slow_gain).max() < 0.16  # nowhere does the chain walk away
    assert np.abs(after[1] - slow_level).max() < 10
    assert np.corrcoef(after[0], slow_gain)[0, 1] > 0.98
    assert np.polyfit(np.arange(3000), after[1], 1)[0] * 3000 == pytest.approx(40, abs=2)


def test_chains_of_biased_pairs_do_not_walk_away() -> None:
    count = 2000
    pairs = compared(np.zeros(count), np.full(count, LEVEL), noise=0.01)
    biased = replace(
        pairs,
        log_gain=pairs.log_gain + 0.003 * np.arange(1, REACH + 1)[:, None],
        level=pairs.level + 0.1 * np.arange(1, REACH + 1)[:, None],
    )
    contrast = solved(biased)
    assert np.abs(np.log(contrast.gain)).max() < 0.08
    assert np.abs(contrast.gain * LEVEL + contrast.offset - LEVEL).max() < 3


def test_uniform_sections_are_hardly_changed() -> None:
    generator = np.random.default_rng(2)
    walk = np.cumsum(generator.normal(0, 0.01, 200)), LEVEL + np.cumsum(generator.normal(0, 0.3, 200))
    contrast = solved(compared(*walk))
    assert np.log(contrast.gain).std() < 0.02
    assert (contrast.gain * walk[1] + contrast.offset - walk[1]).std() < 1.0


@pytest.mark.parametrize("z", [0, 7, 29])
def test_one_section_is_corrected_alone(z: int) -> None:
    generator = np.random.default_rng(3)
    log_gain, level = np.cumsum(generator.normal(0, 0.008, 30)), LEVEL + np.cumsum(generator.normal(0, 0.3, 30))
    before = solved(compared(log_gain, level))
    log_gain[z] -= 0.7
    level[z] += 25
    contrast = solved(compared(log_gain, level))
    now = corrected(contrast, log_gain, level)
    near = [n for n in (z - 1, z + 1) if 0 <= n < 30]
    assert now[0][z] == pytest.approx(now[0][near].mean(), abs=0.06)
    assert now[1][z] == pytest.approx(now[1][near].mean(), abs=2)
    others = np.arange(30) != z
    assert np.abs(np.log(contrast.gain / before.gain))[others].max() < 0.03


def test_a_wrong_pair_hardly_pulls() -> None:
    pairs = compared(np.zeros(40), np.full(40, LEVEL))
    wrong = pairs.log_gain.copy()
    wrong[0, 20] += 0.8
    assert np.abs(np.log(solved(replace(pairs, log_gain=wrong)).gain)).max() < 0.06


def test_sections_that_may_not_be_compared_change_nothing_and_are_not_changed() -> None:
    generator = np.random.default_rng(4)
    log_gain, level = generator.normal(0, 0.1, 40), LEVEL + generator.normal(0, 5, 40)
    usable = np.ones(40, bool)
    usable[[0, 12, 13]] = False
    contrast = solved(compared(log_gain, level), usable)
    spoilt_gain, spoilt_level = log_gain.copy(), level.copy()
    spoilt_gain[~usable], spoilt_level[~usable] = 3.0, 5.0
    again = solved(compared(spoilt_gain, spoilt_level), usable)
    np.testing.assert_array_equal(contrast.gain, again.gain)
    np.testing.assert_array_equal(contrast.offset, again.offset)
    np.testing.assert_array_equal(contrast.matched, usable)
    assert (contrast.gain[~usable] == 1).all()
    assert (contrast.offset[~usable] == 0).all()


def test_pairs_without_likeness_do_not_count() -> None:
    pairs = compared(np.zeros(30), np.full(30, LEVEL))
    likeness = pairs.likeness.copy()
    log_gain = pairs.log_gain.copy()
    for k in range(1, REACH + 1):  # section 10 shows something else, of which some blocks are alike by chance
        for z in (10, 10 + k):
            likeness[k - 1, z], log_gain[k - 1, z] = 0.05, 1.5
    contrast = solved(replace(pairs, likeness=likeness, log_gain=log_gain))
    assert not contrast.matched[10]
    assert contrast.gain[10] == 1
    assert np.abs(np.log(contrast.gain)).max() < 0.03


def test_corrections_are_bounded() -> None:
    log_gain, level = np.zeros(30), np.full(30, LEVEL)
    log_gain[9], level[20] = -3.0, LEVEL + 400
    contrast = solved(compared(log_gain, level))
    assert contrast.gain.max() == pytest.approx(MAX_GAIN)
    assert np.abs(contrast.gain * level + contrast.offset - level).max() <= MAX_SHIFT * 255 + 1e-6


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_short_stacks_are_solved_too(count: int) -> None:
    log_gain = np.linspace(0, 0.3, count)
    level = np.full(count, LEVEL)
    pairs = ContrastPairs(
        **{
            name: getattr(compared(np.r_[log_gain, np.zeros(5)], np.r_[level, np.full(5, LEVEL)]), name)[:, :count]
            for name in ("log_gain", "level", "middle", "middle_other", "spread", "likeness", "share")
        }
    )
    contrast = solved(pairs)
    assert np.isfinite(contrast.gain).all()
    assert contrast.matched.all() == (count > 1)


def test_nothing_compared_changes_nothing() -> None:
    nothing = np.full((REACH, 6), np.nan)
    names = ("log_gain", "level", "middle", "middle_other", "spread", "likeness")
    contrast = solved(ContrastPairs(**dict.fromkeys(names, nothing), share=np.zeros((REACH, 6))))
    assert not contrast.matched.any()
    assert (contrast.gain == 1).all()
    assert (contrast.offset == 0).all()


def test_corrections_do_not_depend_on_the_unit() -> None:
    generator = np.random.default_rng(5)
    level = generator.normal(0, 10, 60)
    pairs = compared(np.zeros(60), level)
    share = np.where(np.isfinite(pairs.level), 1.0, 0.0)
    one = solve_corrections(pairs.level, share, floor=0.6)
    np.testing.assert_allclose(
        solve_corrections(pairs.level * 257, share, floor=0.6 * 257), one * 257, rtol=1e-6, atol=1e-6
    )
