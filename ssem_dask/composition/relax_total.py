"""What lay between two sections in all, seen from where the solution leads so far; see `relax` for frames and symbols.

The affine part of each pair field is taken out before it is sampled, and added in closed form, so that repeating the
border value costs nothing where sections were turned or shifted.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import apply_affine, fit_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample, sample_known
from ssem_dask.types import BoolArray, Float64Array

_LEAST_NODES = 16
_LEAST_SHARE = 0.02
"""Known nodes of a pair field below which it says nothing about the section as a whole."""
_OUTLIER = 2.4


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """Pair fields in two parts."""

    affine: Float64Array
    """`(K, Z, 2, 3)` full maps, mip-0 px; NaN where too little is known."""
    rest: Tensor
    """`(K, Z, 2, y, x)`: what is left of the fields, NaN unknown."""


def split_pairs(pairs: Tensor, weights: Float64Array, *, grid: Grid) -> SplitPairs:
    """Fit an affine map to each pair field, robustly, and take it out.

    Args:
        pairs: `(K, Z, 2, y, x)`.
        weights: `(K, Z, y, x)`, 0 where unknown.
        grid: of the nodes.
    """
    positions = grid.positions().double()
    points = positions.reshape(2, -1).T.numpy()
    affine = np.full((*pairs.shape[:2], 2, 3), np.nan)
    rest = torch.full_like(pairs, torch.nan)
    for k, z in np.ndindex(*affine.shape[:2]):
        found = robust_affine(points, pairs[k, z].reshape(2, -1).T.double().numpy(), weights[k, z].ravel())
        if found is None:
            continue
        affine[k, z] = found
        rest[k, z] = pairs[k, z] - (apply_affine(found, positions) - positions).float()
    return SplitPairs(affine, rest)


def robust_affine(points: Float64Array, displacements: Float64Array, weights: Float64Array) -> Float64Array | None:
    """The affine map `(2, 3)` that most of the displacements follow; None where too few are known.

    Args:
        points: `(n, 2)`, px.
        displacements: `(n, 2)`, px; anything where they are not known.
        weights: `(n,)`, 0 where they are not known.
    """
    known = weights > 0
    if known.sum() < max(_LEAST_NODES, _LEAST_SHARE * known.size):
        return None
    at = points[known]
    target = at + displacements[known]
    robust = np.ones(len(at))
    for _ in range(3):
        found = fit_affine(positions=at, targets=target, weights=weights[known] * robust)
        miss = np.linalg.norm(at @ found[:, :2].T + found[:, 2] - target, axis=1)
        robust = 1.0 / (1.0 + (miss / (_OUTLIER * max(float(np.median(miss)), 1e-3))) ** 2)
    return found


def without_affines(pairs: Tensor, affine: Float64Array, *, grid: Grid) -> Tensor:
    """What is left of pair fields `(K, Z, 2, y, x)` without affine maps `(K, Z, 2, 3)` that were fitted to them before.

    NaN where a map is.
    """
    positions = grid.positions().double()
    rest = torch.full_like(pairs, torch.nan)
    for k, z in np.ndindex(*affine.shape[:2]):
        if np.isfinite(affine[k, z]).all():
            rest[k, z] = pairs[k, z] - (apply_affine(affine[k, z], positions) - positions).float()
    return rest


def observed_totals(
    split: SplitPairs, *, turn: Float64Array, elastic: Tensor, natural: Tensor, grid: Grid
) -> tuple[Float64Array, Tensor, BoolArray]:
    """T, the natural motion that e leaves, and where they are known.

    Args:
        split: pair fields.
        turn: C `(Z, 2, 3)`.
        elastic: e `(Z, 2, y, x)`, as it is now.
        natural: n `(K, Z, 2, y, x)` of the round before, or 0.
        grid: of the nodes.
    """
    steps, count = split.affine.shape[:2]
    positions = grid.positions()
    total = torch.zeros_like(split.rest)
    motion = torch.zeros_like(split.rest)
    known = np.zeros((steps, count, *grid.shape), dtype=np.bool_)
    for k, z in np.ndindex(steps, count):
        moving = z - k - 1
        if moving < 0 or not np.isfinite(split.affine[k, z]).all():
            continue
        start = apply_affine(turn[z], (positions + elastic[z]).double())
        rest = sample_known(split.rest[k, z], grid=grid, positions=start.float())
        there = torch.isfinite(rest).all(dim=0) & grid.contains(start.float())
        end = apply_affine(split.affine[k, z], start) + torch.nan_to_num(rest)
        reached = (apply_affine(invert_affine(turn[moving]), end) - positions).float()
        left = natural[k, z]
        for _ in range(3):  # n with x + n + e_{z-k}(x + n) where the pair leads
            left = reached - sample(elastic[moving], grid=grid, positions=positions + left, kind="bilinear")
        motion[k, z] = left
        total[k, z] = left + elastic[moving] - elastic[z]
        known[k, z] = there.numpy()
    return total.double().numpy(), motion, known


def without_affine(total: Float64Array, weights: Float64Array, *, grid: Grid) -> Float64Array:
    """Take the affine part out of each T `(K, Z, 2, y, x)`: the affine level answers for it."""
    points = grid.positions().double().reshape(2, -1).T.numpy()
    local = (points - points.mean(axis=0)) / (grid.spacing * max(grid.shape))
    design = np.column_stack([local, np.ones(len(points))])
    out = total.copy()
    for index in np.ndindex(*total.shape[:2]):
        weight = weights[index].ravel()
        if np.count_nonzero(weight) < _LEAST_NODES:
            continue
        root = np.sqrt(weight)[:, None]
        values = total[index].reshape(2, -1).T
        found, *_ = np.linalg.lstsq(design * root, values * root, rcond=None)
        out[index] = (values - design @ found).T.reshape(out[index].shape)
    return out
