"""Refinement of a rigid fit to an affine one: a few robust Gauss–Newton steps on two thumbnails, coarse to fine.

Positions are thumbnail px (C3); affines pull, fixed → moving, full map. The residual is r = moving(A p) - fixed(p),
its gradient the mean of both images' (as in the pair registration), its weight a Cauchy weight in r.
"""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import apply_affine, compose_affine
from ssem_dask.field.interpolate import sample
from ssem_dask.registration.coarse_section import Level
from ssem_dask.types import Float64Array

STEPS = 4
"""Gauss–Newton steps at each level."""
MAX_SCALE = 0.1
"""Largest believable departure of a principal stretch from 1, relative to the rigid fit."""
MAX_MOVE = 0.06
"""Largest believable correction of the rigid fit, as a share of the section's side."""
MIN_PIXELS = 256
"""Overlap in px below which six parameters are not fitted."""


def refine_affine(rigid: Float64Array, *, fixed: tuple[Level, ...], moving: tuple[Level, ...]) -> Float64Array:
    """Refine `rigid` to an affine map.

    Args:
        rigid: `(2, 3)`, thumbnail px; may already hold an affine start.
        fixed: images, coarse to fine.
        moving: the same levels.

    Returns:
        `(2, 3)`; `rigid` itself where the refinement leaves sane bounds or does not raise the correlation.
    """
    affine = rigid
    for still, pulled in zip(fixed, moving, strict=True):
        for _ in range(STEPS):
            step = _gauss_newton_step(affine, fixed=still, moving=pulled)
            if step is None:
                return rigid
            # The step is a map of the fixed section applied first: it then does not depend on the rotation.
            affine = compose_affine(outer=affine, inner=step)
    finest = fixed[-1].grid.shape
    if not _sane(affine, rigid=rigid, side=max(finest)):
        return rigid
    better = correlation(affine, fixed[-1], moving[-1]) > correlation(rigid, fixed[-1], moving[-1])
    return affine if better else rigid


def _gauss_newton_step(affine: Float64Array, *, fixed: Level, moving: Level) -> Float64Array | None:
    """One step as an affine map near the identity, to be applied before `affine`; None where it is undetermined."""
    positions = fixed.grid.positions(fixed.image.device)
    pulled, inside = _pull(affine, fixed, moving)
    if int(inside.sum()) < MIN_PIXELS:
        return None
    # d moving(A(p + d)) / d d is the gradient of the pulled image, in the fixed section's frame.
    gradient = torch.stack(torch.gradient((pulled + fixed.image) / 2, dim=(0, 1)))[:, inside] / fixed.grid.spacing
    residual = (pulled - fixed.image)[inside]
    scale = 1.4826 * float(residual.abs().median()) + 1e-6
    weight = 1.0 / (1.0 + (residual / (2 * scale)) ** 2)
    middle = np.asarray(fixed.grid.shape) * fixed.grid.spacing / 2
    half = float(middle.max())
    y, x = (positions[:, inside] - positions.new_tensor(middle)[:, None]) / half
    basis = torch.stack([torch.ones_like(y), y, x])
    design = torch.cat([gradient[0] * basis, gradient[1] * basis])
    weighted = design * weight
    normal = (weighted @ design.T).double().cpu().numpy()
    right = -(weighted @ residual).double().cpu().numpy()
    normal += np.eye(6) * (1e-6 * np.trace(normal) / 6 + 1e-12)
    solution = np.linalg.solve(normal, right).reshape(2, 3)
    linear = np.eye(2) + solution[:, 1:] / half
    return np.column_stack([linear, solution[:, 0] + middle - linear @ middle])


def _pull(affine: Float64Array, fixed: Level, moving: Level) -> tuple[Tensor, Tensor]:
    """The moving image on the fixed one's grid, and where both are known."""
    positions = apply_affine(affine, fixed.grid.positions(fixed.image.device))
    stacked = torch.stack([moving.image, moving.mask.to(moving.image.dtype)])
    image, mask = sample(stacked, grid=moving.grid, positions=positions, kind="bilinear")
    return image, moving.grid.contains(positions) & (mask > 0.5) & fixed.mask


def _sane(affine: Float64Array, *, rigid: Float64Array, side: int) -> bool:
    """Whether the map is a believable deformation of a section, and near where the search put it."""
    if not np.isfinite(affine).all():
        return False
    change = affine[:, :2] @ np.linalg.inv(rigid[:, :2])
    if np.linalg.det(change) <= 0 or np.abs(np.linalg.svd(change, compute_uv=False) - 1).max() > MAX_SCALE:
        return False
    middle = np.array([side / 2, side / 2, 1.0])
    return bool(np.linalg.norm((affine - rigid) @ middle) <= MAX_MOVE * side)


def correlation(affine: Float64Array, fixed: Level, moving: Level) -> float:
    """Normalised correlation over the overlap."""
    pulled, inside = _pull(affine, fixed, moving)
    if int(inside.sum()) < MIN_PIXELS:
        return -1.0
    a, b = fixed.image[inside].double(), pulled[inside].double()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
