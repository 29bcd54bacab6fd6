"""Gain and offset of every section, from the contrast of pairs of neighbours.

Of each quantity, log gain and grey level, a section has some value u_z. It is the sum of a slow part, which belongs to
the block, and of an error e_z of this section alone. Pairs (z, z-k) measure differences d = u_z - u_{z-k}. The
corrections a_z = -e_z minimise

    sum over pairs (a_z - a_{z-k} + d)² / (k q + n / m)   +   sum over z of (a_z / s)²

with q the variance of a step of the slow part, n that of a measurement, m the share of the section that it compares,
relative to the usual one, and s² the variance of the errors. The second sum ties
each section to its own values, so a chain of ratios cannot walk away, and a change of the block that is slow compared
with s / sqrt(q) sections stays. All three variances are taken from the data, so sections that do not differ are not
changed.

Both sums are robust. A section far from its neighbours is corrected as a whole, without any pull on them: Cauchy's
weight in the tie, of its distance from the corrections around it. A pair that contradicts others counts little: Huber's
weight.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_solve_banded, cholesky_banded, solveh_banded
from scipy.ndimage import median_filter

from ssem_dask.types import BoolArray, Float64Array

MAX_GAIN = 4.0
"""Largest gain; the least is its inverse."""
MAX_SHIFT = 0.5
"""Largest change of a section's grey level, as a share of the range of the data type."""
_REACHES = (0.1, 10.0)
"""Least and largest s / sqrt(q), sections."""
_RATIOS = 24
"""Ratios q / s² that are tried."""
_DEVIANCE = 3.84
"""Twice the loss of log likelihood up to which the data do not contradict a ratio, with a certainty of 95 %."""
_FEW_DIFFERENCES = 8
"""Pairs below which the data do not determine variances; sections are then tied weakly."""
_GAIN_FLOOR, _LEVEL_FLOOR = 0.004, 0.02
"""Least standard deviation of a step: of the log gain; of the level, in units of the spread of grey values."""
_ITERATIONS = 30
_HUBER = 3.0
_OUTLIER = 4.0
"""Robust standard deviations from which a difference does not count for the variances."""
_NEIGHBOURHOOD = 15
"""Sections around one whose median correction is the usual one there."""
_LIKE_SHARE = 0.4
"""Likeness of a pair, and share of the section that it compares, relative to the usual ones, below which it counts for
nothing."""
_LEAST_SHARE = 0.05
"""Share of the section that a pair must compare at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastPairs:
    """Comparisons of pairs (z, z-k), NaN if a pair was not compared; see `image.contrast_pairs.ContrastPair`."""

    log_gain: Float[Float64Array, "K Z"]
    level: Float[Float64Array, "K Z"]
    middle: Float[Float64Array, "K Z"]
    middle_other: Float[Float64Array, "K Z"]
    spread: Float[Float64Array, "K Z"]
    likeness: Float[Float64Array, "K Z"]
    share: Float[Float64Array, "K Z"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionContrast:
    """Corrections of sections: corrected = gain * grey value + offset."""

    gain: Float[Float64Array, " Z"]
    offset: Float[Float64Array, " Z"]
    matched: Bool[BoolArray, " Z"]
    """Sections that were compared with a neighbour; the others keep their grey values."""
    level: Float[Float64Array, " Z"]
    """Grey level of the sections as they came, where they were compared; NaN if they were not."""


@dataclass(frozen=True, slots=True)
class _Variances:
    """Variances of one quantity."""

    step: float
    """q: of the slow part, from a section to the next."""
    noise: float
    """n: of a measurement."""
    error: float
    """s²: of the errors of sections."""


def match_contrast(pairs: ContrastPairs, *, usable: Bool[BoolArray, " Z"], limit: float) -> SectionContrast:
    """Compute the corrections of all sections together.

    Args:
        pairs: comparisons of neighbours.
        usable: sections that may be compared. The others are not changed, and change no other.
        limit: range of the data type, grey values.
    """
    believed = _believed_pairs(pairs, usable)
    matched = _touched(believed)
    if not matched.any():
        same, unknown = np.ones(len(usable)), np.full(len(usable), np.nan)
        return SectionContrast(gain=same, offset=same * 0, matched=matched, level=unknown)
    share = np.where(believed, pairs.share, 0.0) / float(np.median(pairs.share[believed]))
    logs = solve_corrections(pairs.log_gain, share, floor=_GAIN_FLOOR)
    gain = np.where(matched, np.exp(np.clip(logs, -np.log(MAX_GAIN), np.log(MAX_GAIN))), 1.0)
    own = _own_levels(pairs, believed)
    # The gain leaves the section's own level in place, and moves the level of a part of it.
    stretched = (gain - 1.0) * (pairs.middle - own)
    stretched_other = np.zeros_like(stretched)
    for k, row in enumerate(pairs.middle_other, start=1):
        stretched_other[k - 1, k:] = (gain[:-k] - 1.0) * (row[k:] - own[:-k])
    spread = float(np.median(pairs.spread[believed]))
    shift = solve_corrections(pairs.level + stretched - stretched_other, share, floor=_LEVEL_FLOOR * spread)
    shift = np.clip(shift, -MAX_SHIFT * limit, MAX_SHIFT * limit)
    return SectionContrast(
        gain=gain,
        offset=np.where(matched, own + shift - gain * own, 0.0),
        matched=matched,
        level=np.where(matched, own, np.nan),
    )


def solve_corrections(
    differences: Float[Float64Array, "K Z"], share: Float[Float64Array, "K Z"], *, floor: float
) -> Float[Float64Array, " Z"]:
    """Return the corrections of one quantity; see the module.

    Args:
        differences: values of z minus those of z-k.
        share: share of the section that a pair compares, relative to the usual one; 0: the pair does not count.
        floor: least standard deviation of a step, in the unit of the differences.
    """
    believed = share > 0
    d = np.where(believed, differences, 0.0)
    variances = _find_variances(d, believed, floor=floor)
    distances = np.arange(1, len(d) + 1)
    scale = np.sqrt(distances[:, None] * variances.step + variances.noise / np.where(believed, share, 1.0))
    correction, trust = np.zeros(d.shape[1]), np.ones_like(d)
    # A weak tie at first, so that sections far from their neighbours stand out.
    tie = np.full(d.shape[1], 1.0 / (_REACHES[1] ** 2 * (variances.step + variances.noise)))
    for _ in range(_ITERATIONS):
        before = correction
        correction = _solved(d, np.where(believed, trust / scale**2, 0.0), tie)
        residual = d + correction
        for k in distances:
            residual[k - 1, k:] -= correction[:-k]
        trust = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residual), 1e-12))
        alone = correction - median_filter(correction, _NEIGHBOURHOOD, mode="mirror")
        tie = 1.0 / (variances.error + alone**2)
        if np.abs(correction - before).max() < floor * 1e-3:
            break
    return correction


def _solved(d: Float64Array, weight: Float64Array, tie: Float64Array) -> Float64Array:
    """Solve the normal equations, which have one band per distance."""
    reach, count = d.shape
    bands = np.zeros((min(reach, count - 1) + 1, count))
    bands[0] = tie
    right = np.zeros(count)
    for k in range(1, len(bands)):
        w = weight[k - 1, k:]
        bands[0, k:] += w
        bands[0, :-k] += w
        bands[k, :-k] -= w
        right[k:] -= w * d[k - 1, k:]
        right[:-k] += w * d[k - 1, k:]
    return np.asarray(solveh_banded(bands, right, lower=True))


def _find_variances(d: Float64Array, believed: BoolArray, *, floor: float) -> _Variances:
    noise = 0.0
    if len(d) > 1:
        # Measurements alone make d(z, z-1) + d(z-1, z-2) differ from d(z, z-2).
        closed = believed[0, 2:] & believed[0, 1:-1] & believed[1, 2:]
        noise = _robust_variance((d[0, 2:] + d[0, 1:-1] - d[1, 2:])[closed]) / 3.0
    runs = _unbroken_runs(d[0], believed[0])
    if sum(map(len, runs)) < _FEW_DIFFERENCES:
        return _Variances(floor**2, noise, (_REACHES[1] * floor) ** 2)
    error, ratio = _likeliest(runs)
    step = max(ratio * error - noise, floor**2)
    low, high = (reach**2 * step for reach in _REACHES)
    return _Variances(step, noise, min(max(error, low), high))


def _unbroken_runs(d: Float64Array, believed: BoolArray) -> list[Float64Array]:
    """Return the runs of believed differences of adjacent sections; outliers break them."""
    known = d[believed]
    if not len(known):
        return []
    limit = _OUTLIER * max(_robust_variance(known) ** 0.5, 1e-9)
    usual = believed & (np.abs(d - np.median(known)) <= limit)
    borders = np.flatnonzero(np.diff(usual.astype(int))) + 1
    return [part for part, ok in zip(np.split(d, borders), np.split(usual, borders), strict=True) if ok[0]]


def _likeliest(runs: list[Float64Array]) -> tuple[float, float]:
    """Return the variance s² of the errors, and q / s².

    Differences of adjacent sections are a moving average of order 1. Their covariance is s² times a matrix with
    2 + q / s² on the diagonal and -1 beside it. Its determinant is nearly the same for all small ratios, so a short
    series does not determine the ratio; the least one that it does not contradict is taken.
    """
    count = sum(map(len, runs))
    tried = []
    for ratio in np.geomspace(_REACHES[1] ** -2, _REACHES[0] ** -2, _RATIOS):
        squares, logdet = 0.0, 0.0
        for run in runs:
            root = cholesky_banded(np.vstack([np.full(len(run), 2.0 + ratio), np.full(len(run), -1.0)]), lower=True)
            squares += float(run @ cho_solve_banded((root, True), run))
            logdet += 2.0 * float(np.log(root[0]).sum())
        tried.append((count * float(np.log(max(squares, 1e-300) / count)) + logdet, squares / count, float(ratio)))
    bound = min(cost for cost, _, _ in tried) + _DEVIANCE
    return next((error, ratio) for cost, error, ratio in tried if cost <= bound)


def _robust_variance(values: Float64Array) -> float:
    return float((1.4826 * np.median(np.abs(values - np.median(values)))) ** 2) if len(values) else 0.0


def _believed_pairs(pairs: ContrastPairs, usable: BoolArray) -> BoolArray:
    """Return the pairs (k, z) that count: of usable sections that resemble each other."""
    believed = np.isfinite(pairs.log_gain) & np.isfinite(pairs.level) & (pairs.share >= _LEAST_SHARE) & usable[None]
    for k, row in enumerate(believed, start=1):
        row[:k] = False
        row[k:] &= usable[:-k]
        if row.any():
            for values in (pairs.likeness[k - 1], pairs.share[k - 1]):
                row &= values >= _LIKE_SHARE * float(np.median(values[row]))
    return believed


def _touched(believed: BoolArray) -> BoolArray:
    """Return the sections (z,) that any pair compares."""
    touched: BoolArray = np.asarray(believed.any(axis=0))
    for k, row in enumerate(believed, start=1):
        touched[:-k] |= row[k:]
    return touched


def _own_levels(pairs: ContrastPairs, believed: BoolArray) -> Float64Array:
    """Return the grey level (z,) of each section where it was compared; 0 if it was not."""
    reach, count = believed.shape
    levels = np.full((2 * reach, count), np.nan)
    levels[:reach] = np.where(believed, pairs.middle, np.nan)
    for k in range(1, reach + 1):
        levels[reach + k - 1, :-k] = np.where(believed, pairs.middle_other, np.nan)[k - 1, k:]
    own, known = np.zeros(count), np.isfinite(levels).any(axis=0)
    own[known] = np.nanmedian(levels[:, known], axis=0)
    return own
