"""Affine maps of a section: `(2, 3)` float64, the y and the x row of the full map p ↦ A·(y, x, 1), mip-0 px.

Law: `apply(compose_affine(outer=a, inner=b), p) == apply(a, apply(b, p))`.
"""

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.types import Float64Array, PointYX

Affine: TypeAlias = Float64[Float64Array, "2 3"]
"""Matrix of an affine map."""

IDENTITY: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
IDENTITY.flags.writeable = False


def compose_affine(*, outer: Affine, inner: Affine) -> Affine:
    """Compute the map p ↦ outer(inner(p))."""
    linear = outer[:, :2] @ inner[:, :2]
    shift = outer[:, :2] @ inner[:, 2] + outer[:, 2]
    return np.column_stack([linear, shift])


def invert_affine(affine: Affine) -> Affine:
    """Compute the inverse map."""
    linear = np.linalg.inv(affine[:, :2])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def rotation_about(*, degrees: float, centre: PointYX, shift: PointYX = (0.0, 0.0), scale: float = 1.0) -> Affine:
    """Make a rotation (and scaling) about `centre`, then a shift; positive angles rotate y towards x."""
    angle = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.asarray(centre)
    return np.column_stack([linear, middle - linear @ middle + np.asarray(shift)])


def apply_affine(affine: Affine, positions: Float[Tensor, "2 *points"]) -> Float[Tensor, "2 *points"]:
    """Map positions, in their own dtype."""
    a = np.asarray(affine, dtype=np.float64).tolist()
    y, x = positions[0], positions[1]
    if [row[:2] for row in a] == [[1.0, 0.0], [0.0, 1.0]]:
        return torch.stack([y + a[0][2], x + a[1][2]])
    return torch.stack([(y * row[0]).add_(x, alpha=row[1]).add_(row[2]) for row in a])


def apply_affines(
    affines: Float[Tensor, "n 2 3"], positions: Float[Tensor, "n 2 y x"] | Float[Tensor, "2 y x"]
) -> Float[Tensor, "n 2 y x"]:
    """Map positions by each of `affines`: its own ones, or the same for all."""
    y, x = positions.unsqueeze(-4).unbind(dim=-3) if positions.ndim == 3 else positions.unbind(dim=-3)
    a = affines[..., None, None]
    return torch.stack([a[:, i, 0] * y + a[:, i, 1] * x + a[:, i, 2] for i in range(2)], dim=1)


def localise_affine(affine: Affine, *, target: PointYX, source: PointYX) -> Affine:
    """Express the map in local coordinates, q ↦ A(q + target) - source, so that float32 positions stay small."""
    linear = affine[:, :2]
    return np.column_stack([linear, affine[:, 2] + linear @ np.asarray(target) - np.asarray(source)])


def affine_field(affine: Affine, *, grid: Grid) -> Float[Tensor, "2 y x"]:
    """Convert the map to a displacement field on `grid`, float32; computed in float64."""
    positions = grid.positions().double()
    return (apply_affine(affine, positions) - positions).float()


def fit_affine(
    *,
    positions: Float64[Float64Array, "n 2"],
    targets: Float64[Float64Array, "n 2"],
    weights: Float64[Float64Array, "n"],
) -> Affine:
    """Fit the affine map from `positions` to `targets` by weighted least squares.

    Raises:
        ValueError: fewer than three points have a weight above 0.
    """
    if np.count_nonzero(weights > 0) < 3:
        raise ValueError("fit_affine: fewer than 3 points have a weight above 0; an affine map needs 3.")
    design = np.column_stack([positions, np.ones(len(positions))])
    root = np.sqrt(weights)[:, None]
    solution, *_ = np.linalg.lstsq(design * root, targets * root, rcond=None)
    return np.ascontiguousarray(solution.T)
