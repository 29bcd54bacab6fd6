"""Refinement of a rigid fit to an affine one: a few robust Gauss–Newton steps on two thumbnails, coarse to fine.

Positions are thumbnail px (C3); affines pull, fixed → moving, full map. The residual is r = moving(A p) - fixed(p),
its gradient the mean of both images' (as in the pair registration), its weight a Cauchy weight in r.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import compose_affine
from ssem_dask.field.interpolate import sample_affine
from ssem_dask.registration.coarse_alignment.thumbnail import Level
from ssem_dask.types import AnyArray, Float64Array

STEPS = 4
"""Gauss–Newton steps at each level."""
MAX_SCALE = 0.1
"""Largest believable departure of a principal stretch from 1, relative to the rigid fit."""
MAX_MOVE = 0.06
"""Largest believable correction of the rigid fit, as a share of the section's side."""
MIN_PIXELS = 256
"""Overlap in px below which six parameters are not fitted."""
_POWERS_Y, _POWERS_X = np.array([0, 1, 0]), np.array([0, 0, 1])
"""What a row of an affine map is linear in, 1, y and x, as powers of y and of x."""


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
    pulled, inside = _pull(affine, fixed, moving)
    if int(inside.count_nonzero()) < MIN_PIXELS:
        return None
    # d moving(A(p + d)) / d d is the gradient of the pulled image, in the fixed section's frame.
    gradient = torch.gradient(pulled + fixed.image, spacing=2 * fixed.grid.spacing, dim=(0, 1))
    residual = pulled - fixed.image
    # By numpy, which picks pixels and finds their median several times as fast as torch.
    scale = 1.4826 * _median(residual.abs().cpu().numpy()[inside.cpu().numpy()]) + 1e-6
    weight = inside / (residual / (2 * scale)).square_().add_(1.0)
    middle = np.asarray(fixed.grid.shape) * fixed.grid.spacing / 2
    half = float(middle.max())
    normal, right = _normal_equations(gradient, residual, weight, half=half / fixed.grid.spacing)
    normal += np.eye(6) * (1e-6 * np.trace(normal) / 6 + 1e-12)
    solution = np.linalg.solve(normal, -right).reshape(2, 3)
    linear = np.eye(2) + solution[:, 1:] / half
    return np.column_stack([linear, solution[:, 0] + middle - linear @ middle])


def _normal_equations(
    gradient: Sequence[Tensor], residual: Tensor, weight: Tensor, *, half: float
) -> tuple[Float64Array, Float64Array]:
    """Matrix `(6, 6)` and right side `(6,)` of the weighted least squares for both rows of an affine map.

    A row's unknowns belong to 1, y and x, measured from the image's middle in units of `half` px. Products of these are
    a power of y times a power of x, so that sums over pixels are sums over rows of sums over columns.

    Args:
        gradient: of y and of x, `(y, x)` each.
        residual: `(y, x)`.
        weight: `(y, x)`, 0 where a pixel does not count.
        half: px.
    """
    y, x = (weight * g for g in gradient)
    images = torch.stack([y * gradient[0], y * gradient[1], x * gradient[1], y * residual, x * residual])
    rows, columns = (_powers((torch.arange(n) + 0.5 - n / 2) / half).to(images) for n in residual.shape)
    sums = (rows @ images @ columns.T).double().cpu().numpy()  # [image, power of y, power of x]
    yy, yx, xx = sums[:3, _POWERS_Y[:, None] + _POWERS_Y, _POWERS_X[:, None] + _POWERS_X]
    return np.block([[yy, yx], [yx, xx]]), sums[3:, _POWERS_Y, _POWERS_X].ravel()


def _powers(values: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(values), values, values**2])


def _median(values: AnyArray) -> float:
    """The lower of the two in the middle of an even number."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


def _pull(affine: Float64Array, fixed: Level, moving: Level) -> tuple[Tensor, Tensor]:
    """The moving image on the fixed one's grid, and where both are known."""
    (image, mask), inside = sample_affine(moving.values, grid=moving.grid, affine=affine)
    return image, inside & (mask > 0.5) & fixed.mask


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
    if int(inside.count_nonzero()) < MIN_PIXELS:
        return -1.0
    # Picked by numpy, several times as fast as by torch.
    a, b = (image.cpu().numpy()[inside.cpu().numpy()].astype(np.float64) for image in (fixed.image, pulled))
    a -= a.mean()
    b -= b.mean()
    return float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12)
