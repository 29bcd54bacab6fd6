"""Refinement of a rigid fit to an affine one: a few robust Gauss–Newton steps on two thumbnails.

Positions are thumbnail px (C3); affines pull, fixed → moving, full map. The residual is r = moving(A p) - fixed(p),
its gradient the mean of both images' (as in the pair registration), its weight a Cauchy weight in r.
"""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import apply_affine, compose_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.types import Float64Array

BLURS = (3.0, 1.5, 1.5)
"""Gaussian sigmas in px, from a wide basin of attraction to the wanted precision."""
STEPS = 4
"""Gauss–Newton steps at each blur."""
MAX_SCALE = 0.1
"""Largest believable departure of a principal stretch from 1."""
MAX_MOVE = 0.06
"""Largest believable correction of the rigid fit, as a share of the section's side."""
MIN_PIXELS = 256
"""Overlap in px below which six parameters are not fitted."""


def refine_affine(
    rigid: Float64Array, *, fixed: Tensor, moving: Tensor, fixed_mask: Tensor, moving_mask: Tensor
) -> Float64Array:
    """Refine `rigid` to an affine map.

    Args:
        rigid: `(2, 3)`, thumbnail px.
        fixed: `(y, x)` float32, contrast-normalised, 0 off its mask.
        moving: the same shape.
        fixed_mask: `(y, x)` bool.
        moving_mask: `(y, x)` bool.

    Returns:
        `(2, 3)`; `rigid` itself where the refinement leaves sane bounds or does not raise the correlation.
    """
    grid = Grid((fixed.shape[0], fixed.shape[1]), 1.0)
    masks = torch.stack([fixed_mask, moving_mask]).to(fixed.dtype)
    affine = rigid
    for sigma in BLURS:
        images = blur(torch.stack([fixed, moving]), sigma) / blur(masks, sigma).clamp(min=0.1)
        for _ in range(STEPS):
            step = _gauss_newton_step(affine, images=images, masks=masks, grid=grid)
            if step is None:
                return rigid
            # The step is a map of the fixed section applied first: it then does not depend on the rotation.
            affine = compose_affine(outer=affine, inner=step)
    if not _sane(affine, rigid=rigid, side=max(grid.shape)):
        return rigid
    images = blur(torch.stack([fixed, moving]), 1.0)
    before = _correlation(rigid, images=images, masks=masks, grid=grid)
    after = _correlation(affine, images=images, masks=masks, grid=grid)
    return affine if after > before else rigid


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur `(n, y, x)`, zero beyond the border, cut at 3 sigma."""
    reach = int(np.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.nn.functional.conv2d(images[:, None], kernel[None, None, :, None], padding=(reach, 0))
    return torch.nn.functional.conv2d(rows, kernel[None, None, None, :], padding=(0, reach))[:, 0]


def _gauss_newton_step(affine: Float64Array, *, images: Tensor, masks: Tensor, grid: Grid) -> Float64Array | None:
    """One step as an affine map near the identity, to be applied before `affine`; None where it is undetermined."""
    fixed, moving = images
    positions = grid.positions()
    pulled = sample(
        torch.stack([moving, masks[1]]), grid=grid, positions=apply_affine(affine, positions), kind="bilinear"
    )
    inside = grid.contains(apply_affine(affine, positions)) & (pulled[1] > 0.5) & (masks[0] > 0.5)
    if int(inside.sum()) < MIN_PIXELS:
        return None
    # d moving(A(p + d)) / d d is the gradient of the pulled image, in the fixed section's frame.
    gradient = torch.stack(torch.gradient((pulled[0] + fixed) / 2, dim=(0, 1)))[:, inside].double()
    residual = (pulled[0] - fixed)[inside].double()
    scale = 1.4826 * float(residual.abs().median()) + 1e-6
    weight = 1.0 / (1.0 + (residual / (2 * scale)) ** 2)
    half = max(grid.shape) / 2
    centre = torch.tensor(grid.shape, dtype=torch.float64)[:, None] / 2
    y, x = (positions[:, inside].double() - centre) / half
    basis = torch.stack([torch.ones_like(y), y, x])
    design = torch.cat([gradient[0] * basis, gradient[1] * basis])
    normal = ((design * weight) @ design.T).numpy()
    right = -((design * weight) @ residual).numpy()
    normal += np.eye(6) * (1e-6 * np.trace(normal) / 6 + 1e-12)
    solution = np.linalg.solve(normal, right).reshape(2, 3)
    linear = np.eye(2) + solution[:, 1:] / half
    middle = np.asarray(grid.shape) / 2
    return np.column_stack([linear, solution[:, 0] + middle - linear @ middle])


def _sane(affine: Float64Array, *, rigid: Float64Array, side: int) -> bool:
    """Whether the map is a believable deformation of a section, and near where the search put it."""
    if not np.isfinite(affine).all():
        return False
    stretches = np.linalg.svd(affine[:, :2], compute_uv=False)
    if np.linalg.det(affine[:, :2]) <= 0 or np.abs(stretches - 1).max() > MAX_SCALE:
        return False
    middle = np.array([side / 2, side / 2, 1.0])
    return bool(np.linalg.norm((affine - rigid) @ middle) <= MAX_MOVE * side)


def _correlation(affine: Float64Array, *, images: Tensor, masks: Tensor, grid: Grid) -> float:
    """Normalised correlation over the overlap."""
    positions = apply_affine(affine, grid.positions())
    stacked = torch.stack([images[1], masks[1]])
    pulled = sample(stacked, grid=grid, positions=positions, kind="bilinear")
    inside = grid.contains(positions) & (pulled[1] > 0.5) & (masks[0] > 0.5)
    if int(inside.sum()) < MIN_PIXELS:
        return -1.0
    a, b = images[0][inside].double(), pulled[0][inside].double()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
