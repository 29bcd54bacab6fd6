"""Coarse pair registration: the affine map between two sections, from thumbnails.

Convention: a pull affine of the full map, fixed mip-0 px → moving mip-0 px (C1, C3, C5):
fixed(p) ≈ moving(A·(p_y, p_x, 1)).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import IDENTITY, rotation_about
from ssem_dask.registration.coarse_chain import ChainResult, chain_sections
from ssem_dask.registration.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_refine import refine_affine
from ssem_dask.registration.phase import RigidPeak, find_rotation_and_shift, local_contrast, whiten
from ssem_dask.registration.pyramid import masked_pool
from ssem_dask.types import Float64Array, ShapeYX

__all__ = ["ChainResult", "CoarseConfig", "CoarsePair", "chain_sections", "estimate_pair"]

SEARCH_SIDE = 128
"""Side in px to which thumbnails are pooled for the search over rotations and shifts."""
ANGLE_STEP = 0.5
"""Degrees between rotation candidates: about one px at the corners of a search image."""
CONTRAST_RADIUS = 14
"""Half side in px of the window of the local contrast normalisation."""
MIN_TISSUE = 0.02
"""Least share of tissue in a thumbnail with which a search makes sense."""
MIN_OVERLAP = 0.2
"""Least share of the smaller section's tissue that must overlap."""


@dataclass(frozen=True, slots=True)
class CoarsePair:
    """The affine between two sections, and how far it can be believed."""

    affine: Float64Array
    """`(2, 3)` float64, pull: fixed mip-0 px → moving mip-0 px. Identity where the ratio is 0."""
    ratio: float
    """Peak ratio (best : second): matching pairs 1.5 and more, unrelated ones 1.0 to 1.25; 0: nothing to compare."""


def estimate_pair(
    fixed: Tensor, moving: Tensor, *, fixed_mask: Tensor, moving_mask: Tensor, pixel: float, config: CoarseConfig
) -> CoarsePair:
    """Estimate the affine map that pulls `moving` onto `fixed`.

    Args:
        fixed: thumbnail `(y, x)` float32, at most about 256 px a side.
        moving: thumbnail of the same shape.
        fixed_mask: `(y, x)` bool, True on tissue.
        moving_mask: `(y, x)` bool.
        pixel: mip-0 px per thumbnail px.
        config: range of the search.

    Raises:
        ValueError: the shapes differ.
    """
    if not fixed.shape == moving.shape == fixed_mask.shape == moving_mask.shape or fixed.ndim != 2:
        raise ValueError(
            f"estimate_pair: fixed {tuple(fixed.shape)}, moving {tuple(moving.shape)} and their masks "
            f"{tuple(fixed_mask.shape)}, {tuple(moving_mask.shape)} must have one shape (y, x)."
        )
    if min(float(fixed_mask.float().mean()), float(moving_mask.float().mean())) < MIN_TISSUE:
        return CoarsePair(affine=IDENTITY.copy(), ratio=0.0)
    factor = max(1, round(max(fixed.shape) / SEARCH_SIDE))
    peak = _search(fixed, moving, fixed_mask=fixed_mask, moving_mask=moving_mask, factor=factor, config=config)
    if peak is None:
        return CoarsePair(affine=IDENTITY.copy(), ratio=0.0)
    rigid = _rigid_affine(peak, shape=(fixed.shape[0], fixed.shape[1]), factor=factor)
    radius = CONTRAST_RADIUS * factor
    refined = refine_affine(
        rigid,
        fixed=local_contrast(fixed, mask=fixed_mask, radius=radius),
        moving=local_contrast(moving, mask=moving_mask, radius=radius),
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
    )
    return CoarsePair(affine=np.column_stack([refined[:, :2], refined[:, 2] * pixel]), ratio=peak.ratio)


def _search(
    fixed: Tensor, moving: Tensor, *, fixed_mask: Tensor, moving_mask: Tensor, factor: int, config: CoarseConfig
) -> RigidPeak | None:
    """The rigid peak, in px of the thumbnails pooled by `factor`."""
    prepared = []
    for image, mask in ((fixed, fixed_mask), (moving, moving_mask)):
        small, small_mask = masked_pool(image, mask, factor)
        contrast = local_contrast(small, mask=small_mask, radius=CONTRAST_RADIUS)
        prepared.append((whiten(contrast, mask=small_mask, exponent=config.whitening), small_mask))
    (f, f_mask), (m, m_mask) = prepared
    count = round(config.max_rotation / ANGLE_STEP)
    h, w = f.shape
    return find_rotation_and_shift(
        fixed=f,
        moving=m,
        fixed_mask=f_mask,
        moving_mask=m_mask,
        angles=torch.arange(-count, count + 1) * ANGLE_STEP,
        max_shift=(config.max_shift * h, config.max_shift * w),
        min_overlap=MIN_OVERLAP,
    )


def _rigid_affine(peak: RigidPeak, *, shape: ShapeYX, factor: int) -> Float64Array:
    """The peak as a pull affine in thumbnail px: p ↦ R(p + s - c) + c, with c the centre of the searched image."""
    small = (-(-shape[0] // factor), -(-shape[1] // factor))
    centre = (small[0] * factor / 2, small[1] * factor / 2)
    rotation = rotation_about(degrees=peak.angle, centre=centre)
    shift = rotation[:, :2] @ (factor * np.asarray(peak.shift))
    return np.column_stack([rotation[:, :2], rotation[:, 2] + shift])
