"""Refinement of a rigid fit to an affine one: a few robust Gauss-Newton steps on two thumbnails, coarse to fine.

Positions are thumbnail px (C3); affines pull, fixed → moving, full map. The residual is r = moving(A p) - fixed(p),
its gradient the mean of both images' (as in the pair registration), its weight a Cauchy weight in r.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ssem_dask.field.affine import Affine, compose_affine
from ssem_dask.field.interpolate import sample_affine
from ssem_dask.registration.coarse_alignment.thumbnail import Level
from ssem_dask.types import AnyArray, Float64Array

STEPS = 4
"""Gauss-Newton steps at each level."""
MAX_SCALE = 0.1
"""Largest plausible deviation of a principal stretch from 1, relative to the rigid fit."""
MAX_MOVE = 0.06
"""Largest plausible correction of the rigid fit, as a share of the section's side."""
MIN_PIXELS = 256
"""Overlap in px below which six parameters are not fitted."""
_POWERS_Y, _POWERS_X = np.array([0, 1, 0]), np.array([0, 0, 1])
"""Exponents of y and of x in 1, y and x, of which a row of an affine map is a linear combination."""


def refine_affine(rigid: Affine, *, fixed: tuple[Level, ...], moving: tuple[Level, ...]) -> Affine:
    """Refine `rigid` to an affine map.

    Args:
        rigid: initial map, thumbnail px; may already hold an affine start.
        fixed: images, coarse to fine.
        moving: images of the same levels.

    Returns:
        The affine; `rigid` itself if the refinement is not plausible or does not raise the correlation.
    """
    affine = rigid
    for fixed_level, moving_level in zip(fixed, moving, strict=True):
        for _ in range(STEPS):
            step = _gauss_newton_step(affine, fixed=fixed_level, moving=moving_level)
            if step is None:
                return rigid
            # Compositional form: the step is applied first, in the fixed section's frame, so it does not
            # depend on the rotation.
            affine = compose_affine(outer=affine, inner=step)
    finest = fixed[-1].grid.shape
    if not _is_plausible(affine, rigid=rigid, side=max(finest)):
        return rigid
    better = correlation(affine, fixed[-1], moving[-1]) > correlation(rigid, fixed[-1], moving[-1])
    return affine if better else rigid


def _gauss_newton_step(affine: Affine, *, fixed: Level, moving: Level) -> Affine | None:
    """Compute a step: an affine map near the identity, to be applied before `affine`; None if it is undetermined."""
    pulled, inside = _pull(affine, fixed, moving)
    if int(inside.count_nonzero()) < MIN_PIXELS:
        return None
    # d moving(A(p + d)) / d d is the gradient of the pulled image, in the fixed section's frame.
    gradient = torch.gradient(pulled + fixed.image, spacing=2 * fixed.grid.spacing, dim=(0, 1))
    residual = pulled - fixed.image
    # By numpy, which selects pixels and finds their median several times as fast as torch. 1.4826 · MAD estimates σ.
    scale = 1.4826 * _median(residual.abs().cpu().numpy()[inside.cpu().numpy()]) + 1e-6
    weight = inside / (residual / (2 * scale)).square_().add_(1.0)  # Cauchy weight
    middle = np.asarray(fixed.grid.shape) * fixed.grid.spacing / 2
    half = float(middle.max())
    normal, right = affine_normal_equations(gradient, residual, weight, half=half / fixed.grid.spacing)
    # Levenberg damping, far below any determined parameter.
    normal += np.eye(6) * (1e-6 * np.trace(normal) / 6 + 1e-12)
    solution = np.linalg.solve(normal, -right).reshape(2, 3)
    linear = np.eye(2) + solution[:, 1:] / half
    return np.column_stack([linear, solution[:, 0] + middle - linear @ middle])


def affine_normal_equations(
    gradient: Sequence[Float[Tensor, "y x"]],
    residual: Float[Tensor, "y x"],
    weight: Float[Tensor, "y x"],
    *,
    half: float,
) -> tuple[Float64[Float64Array, "6 6"], Float64[Float64Array, "6"]]:
    """Assemble matrix and right side of the weighted least squares for both rows of an affine map.

    A row's unknowns belong to 1, y and x, measured from the image's middle in units of `half` px. Products of these are
    a power of y times a power of x, so that sums over pixels are sums over rows of sums over columns.

    Args:
        gradient: gradients along y and along x.
        residual: residuals.
        weight: 0 where a pixel does not count.
        half: unit of length, px.
    """
    y, x = (weight * g for g in gradient)
    images = torch.stack([y * gradient[0], y * gradient[1], x * gradient[1], y * residual, x * residual])
    rows, columns = (_powers((torch.arange(n) + 0.5 - n / 2) / half).to(images) for n in residual.shape)
    sums = (rows @ images @ columns.T).double().cpu().numpy()  # [image, power of y, power of x]
    yy, yx, xx = sums[:3, _POWERS_Y[:, None] + _POWERS_Y, _POWERS_X[:, None] + _POWERS_X]
    return np.block([[yy, yx], [yx, xx]]), sums[3:, _POWERS_Y, _POWERS_X].ravel()


def _powers(values: Tensor) -> Tensor:
    """Stack the powers 0, 1 and 2."""
    return torch.stack([torch.ones_like(values), values, values**2])


def _median(values: AnyArray) -> float:
    """Take the median; of an even number the lower of the two in the middle."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


def _pull(affine: Affine, fixed: Level, moving: Level) -> tuple[Float[Tensor, "y x"], Bool[Tensor, "y x"]]:
    """Sample the moving image on the fixed one's grid; also returns where both are known."""
    (image, mask), inside = sample_affine(moving.values, grid=moving.grid, affine=affine)
    return image, inside & (mask > 0.5) & fixed.mask


def _is_plausible(affine: Affine, *, rigid: Affine, side: int) -> bool:
    """Check whether the map is a plausible deformation of a section, and near the result of the search."""
    if not np.isfinite(affine).all():
        return False
    change = affine[:, :2] @ np.linalg.inv(rigid[:, :2])
    if np.linalg.det(change) <= 0 or np.abs(np.linalg.svd(change, compute_uv=False) - 1).max() > MAX_SCALE:
        return False
    middle = np.array([side / 2, side / 2, 1.0])
    return bool(np.linalg.norm((affine - rigid) @ middle) <= MAX_MOVE * side)


def correlation(affine: Affine, fixed: Level, moving: Level) -> float:
    """Compute the normalised correlation over the overlap."""
    pulled, inside = _pull(affine, fixed, moving)
    if int(inside.count_nonzero()) < MIN_PIXELS:
        return -1.0
    # Selected by numpy, several times as fast as by torch.
    a, b = (image.cpu().numpy()[inside.cpu().numpy()].astype(np.float64) for image in (fixed.image, pulled))
    a -= a.mean()
    b -= b.mean()
    return float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12)
