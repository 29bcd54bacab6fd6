"""Coarse pair registration: the affine map between two sections, from thumbnails.

Convention: a pull affine of the full map, fixed mip-0 px → moving mip-0 px (C1, C3, C5):
fixed(p) ≈ moving(A·(p_y, p_x, 1)).
"""

from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.field.affine import IDENTITY, Affine, compose_affine, rotation_about
from ssem_dask.registration.coarse_alignment.phase import RigidPeak, find_best_peak, score_candidates
from ssem_dask.registration.coarse_alignment.refine import correlation, refine_affine
from ssem_dask.registration.coarse_alignment.thumbnail import START_ROTATION_DEG, START_SHIFT, CoarseSection
from ssem_dask.types import ShapeYX

MIN_TISSUE = 0.02
"""Least share of tissue in a thumbnail that is searched."""
MIN_OVERLAP = 0.2
"""Least share of the smaller section's tissue that must overlap."""


@dataclass(frozen=True, slots=True)
class CoarsePair:
    """The affine between two sections, and how far it can be trusted."""

    affine: Affine
    """Pull affine: fixed mip-0 px → moving mip-0 px. Identity if the ratio is 0."""
    ratio: float
    """Score over the second best, or over what chance reaches: neighbours 1.5 to 5, unrelated sections up to 1.24;
    0: nothing to compare."""
    similarity: float
    """Correlation of the two aligned thumbnails, at half their scale, over their overlap; NaN: nothing to compare."""


def estimate_pair(
    *, fixed: CoarseSection, moving: CoarseSection, pixel: float, start: Affine | None, narrow: bool = True
) -> CoarsePair:
    """Estimate the affine map that pulls `moving` onto `fixed`.

    Args:
        fixed: thumbnail, at most about 256 px a side.
        moving: thumbnail of the same shape.
        pixel: mip-0 px per thumbnail px.
        start: initial affine, fixed mip-0 px → moving mip-0 px; None: the identity, with the whole range of the
            configuration.
        narrow: whether only maps within 2° and 3 % of the section's side of the start are searched, not the whole
            range.

    Raises:
        ValueError: the shapes differ.
    """
    if fixed.shape != moving.shape:
        raise ValueError(f"estimate_pair: fixed {fixed.shape} and moving {moving.shape} must have one shape (y, x).")
    if min(fixed.tissue, moving.tissue) < MIN_TISSUE:
        return CoarsePair(affine=IDENTITY.copy(), ratio=0.0, similarity=np.nan)
    if start is None:
        peak, initial = _search(fixed, moving), IDENTITY
    else:
        initial = np.column_stack([start[:, :2], start[:, 2] / pixel])
        peak = _search_about(initial, fixed, moving, narrow=narrow)
    if peak is None:
        return CoarsePair(affine=IDENTITY.copy(), ratio=0.0, similarity=np.nan)
    rigid = compose_affine(outer=initial, inner=_rigid_affine(peak, shape=fixed.search_shape, factor=fixed.factor))
    refined = refine_affine(rigid, fixed=fixed.levels, moving=moving.levels)
    # At half scale: deformations that the affine does not undo destroy the similarity of fine detail.
    half = (fixed.levels[-2:][0], moving.levels[-2:][0])
    return CoarsePair(
        affine=np.column_stack([refined[:, :2], refined[:, 2] * pixel]),
        ratio=peak.ratio,
        similarity=correlation(refined, *half),
    )


def _search(fixed: CoarseSection, moving: CoarseSection) -> RigidPeak | None:
    """Find the best rigid peak, in px of the search images."""
    spectra, max_shift = moving.moving_spectra, fixed.max_shift
    score, enough = score_candidates(
        fixed.fixed_spectra, spectra, shape=fixed.search_shape, max_shift=max_shift, min_overlap=MIN_OVERLAP
    )
    side = max(fixed.search_shape)
    return find_best_peak(score, enough, angles=spectra.angles, max_shift=max_shift, side=side, allowed=None)


def _search_about(start: Affine, fixed: CoarseSection, moving: CoarseSection, *, narrow: bool) -> RigidPeak | None:
    """Find the best rigid peak, near `start` if `narrow`, relative to it, compared with all shifts."""
    spectra, max_shift = moving.moving_spectra_about(start, narrow=narrow), fixed.max_shift
    score, enough = score_candidates(
        fixed.fixed_spectra, spectra, shape=fixed.search_shape, max_shift=max_shift, min_overlap=MIN_OVERLAP
    )
    side = max(fixed.search_shape)
    if not narrow:
        return find_best_peak(score, enough, angles=spectra.angles, max_shift=max_shift, side=side, allowed=None)
    near = [
        (torch.arange(2 * m + 1, device=score.device) - m).abs() <= max(1.0, START_SHIFT * n)
        for m, n in zip(max_shift, fixed.search_shape, strict=True)
    ]
    allowed = (spectra.angles.abs() <= START_ROTATION_DEG)[:, None, None] & near[0][:, None] & near[1]
    return find_best_peak(score, enough, angles=spectra.angles, max_shift=max_shift, side=side, allowed=allowed)


def _rigid_affine(peak: RigidPeak, *, shape: ShapeYX, factor: int) -> Affine:
    """Convert the peak to a pull affine in thumbnail px: p ↦ R(p + s - c) + c, c the centre of the searched image."""
    rotation = rotation_about(degrees=peak.angle, centre=(shape[0] * factor / 2, shape[1] * factor / 2))
    shift = rotation[:, :2] @ (factor * np.asarray(peak.shift))
    return np.column_stack([rotation[:, :2], rotation[:, 2] + shift])
