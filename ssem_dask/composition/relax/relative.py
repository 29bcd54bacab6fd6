"""What lay between two sections in all, seen from where the solution leads so far; see `relax` for frames and symbols.

The affine part of each pair field is taken out before it is sampled, and added in closed form, so that repeating the
border value costs nothing where sections were turned or shifted. All of it runs where the pair fields are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import apply_affines, invert_affine
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch, sample_known_batch
from ssem_dask.types import Float64Array

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


def split_pairs(pairs: Tensor, weights: Tensor, *, grid: Grid) -> SplitPairs:
    """Fit an affine map to each pair field, robustly, and take it out.

    Args:
        pairs: `(K, Z, 2, y, x)`.
        weights: `(K, Z, y, x)`, 0 where unknown.
        grid: of the nodes.
    """
    points = grid.positions(pairs.device).double().reshape(1, 2, -1).mT
    moved, worth = pairs.flatten(0, 1).flatten(2).mT, weights.flatten(0, 1).flatten(1)
    found = [
        robust_affines(points, moved[batch].double(), worth[batch].double())
        for batch in plane_batches(torch.arange(len(moved), device=pairs.device), like=pairs)
    ]
    affine = torch.cat(found).reshape(*pairs.shape[:2], 2, 3).cpu().numpy()
    return SplitPairs(affine, without_affines(pairs, affine, grid=grid))


def robust_affines(points: Tensor, displacements: Tensor, weights: Tensor) -> Tensor:
    """The affine maps `(n, 2, 3)` float64 that most of the displacements follow; NaN where too few are known.

    Args:
        points: `(n, p, 2)` or `(1, p, 2)` float64, px.
        displacements: `(n, p, 2)` float64, px; anything where they are not known.
        weights: `(n, p)`, 0 where they are not known.
    """
    known = weights > 0
    moved = torch.where(known[..., None], displacements, torch.zeros_like(displacements))
    points = torch.where(known[..., None], points, torch.zeros_like(displacements))
    unknown = torch.full_like(weights, torch.nan)
    robust = torch.ones_like(weights)
    found = torch.zeros(len(weights), 2, 3, dtype=torch.float64, device=weights.device)
    for _ in range(3):
        found = _fitted(points, moved, weights * robust)
        miss = torch.linalg.vector_norm(points @ found[:, :, :2].mT + found[:, None, :, 2] - moved, dim=2)
        typical = torch.where(known, miss, unknown).nanmedian(dim=1, keepdim=True).values
        robust = 1.0 / (1.0 + (miss / (_OUTLIER * typical.clamp(min=1e-3))) ** 2)
        robust = torch.where(known, robust, torch.zeros_like(robust))
    found[:, 0, 0] += 1.0
    found[:, 1, 1] += 1.0
    found[known.sum(dim=1) < max(_LEAST_NODES, _LEAST_SHARE * known.shape[1])] = torch.nan
    return found


def _fitted(points: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """The affine functions `(n, 2, 3)` of points that are closest to values, both `(n, p, 2)`; 0 without weight."""
    total = weights.sum(dim=1).clamp(min=1e-30)
    centre = (weights[..., None] * points).sum(dim=1, keepdim=True) / total[:, None, None]
    away = points - centre
    size = ((weights * away.square().sum(dim=2)).sum(dim=1) / total).sqrt().clamp(min=1e-30)
    design = torch.cat([away / size[:, None, None], torch.ones_like(away[..., :1])], dim=2)
    weighted = (weights / total[:, None])[..., None] * design
    # The pseudo-inverse, since known points may all lie in a line.
    solution = (torch.linalg.pinv(weighted.mT @ design, hermitian=True) @ (weighted.mT @ values)).mT
    linear = solution[..., :2] / size[:, None, None]
    return torch.cat([linear, solution[..., 2:] - linear @ centre.mT], dim=2)


def without_affines(pairs: Tensor, affine: Float64Array, *, grid: Grid) -> Tensor:
    """What is left of pair fields `(K, Z, 2, y, x)` without affine maps `(K, Z, 2, 3)` that were fitted to them before.

    NaN where a map is.
    """
    positions = grid.positions(pairs.device).double()
    maps = torch.from_numpy(affine).to(pairs.device).flatten(0, 1)
    rest, flat = torch.empty_like(pairs).flatten(0, 1), pairs.flatten(0, 1)
    for batch in plane_batches(torch.arange(len(flat), device=pairs.device), like=pairs):
        rest[batch] = flat[batch] - (apply_affines(maps[batch], positions) - positions).float()
    return rest.reshape(pairs.shape)


def observed_totals(
    split: SplitPairs, *, turn: Float64Array, elastic: Tensor, natural: Tensor, grid: Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """T `(K, Z, 2, y, x)`, the natural motion that e leaves, and where they are known `(K, Z, y, x)`.

    Args:
        split: pair fields.
        turn: C `(Z, 2, 3)`.
        elastic: e `(Z, 2, y, x)`, as it is now.
        natural: n `(K, Z, 2, y, x)` of the round before, or 0.
        grid: of the nodes.
    """
    rest = split.rest
    positions = grid.positions(rest.device)
    maps = torch.from_numpy(split.affine).to(rest.device)
    turns = torch.from_numpy(turn).to(rest.device)
    back = torch.from_numpy(np.stack([invert_affine(c) for c in turn])).to(rest.device)
    total = torch.zeros_like(rest)
    motion = torch.zeros_like(rest)
    known = torch.zeros(*rest.shape[:2], *grid.shape, dtype=torch.bool, device=rest.device)
    for k, z in _pairs_that_are(split, like=rest):
        moving = z - k - 1
        start = apply_affines(turns[z], (positions + elastic[z]).double())
        found = sample_known_batch(rest[k, z], grid=grid, positions=start.float())
        there = torch.isfinite(found).all(dim=1) & grid.contains(start.float().transpose(0, 1))
        end = apply_affines(maps[k, z], start) + torch.nan_to_num(found)
        reached = (apply_affines(back[moving], end) - positions).float()
        before, left = elastic[moving], natural[k, z]
        for _ in range(3):  # n with x + n + e_{z-k}(x + n) where the pair leads
            left = reached - sample_batch(before, grid=grid, positions=positions + left)
        motion[k, z] = left
        total[k, z] = left + before - elastic[z]
        known[k, z] = there
    return total, motion, known


def _pairs_that_are(split: SplitPairs, *, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """k - 1 and some z at a time."""
    steps, count = split.affine.shape[:2]
    fitted = np.asarray(np.isfinite(split.affine).all(axis=(2, 3)))
    for k in range(steps):
        sections = [z for z in range(k + 1, count) if fitted[k, z]]
        for batch in plane_batches(torch.tensor(sections, dtype=torch.long, device=like.device), like=like):
            if len(batch):
                yield k, batch


def without_affine(total: Tensor, weights: Tensor, *, grid: Grid) -> Tensor:
    """Take the affine part out of each T `(K, Z, 2, y, x)`: the affine level answers for it."""
    points = grid.positions(total.device).double().reshape(1, 2, -1).mT
    flat, worth = total.flatten(0, 1).flatten(2), weights.flatten(0, 1).flatten(1)
    out = torch.empty_like(flat)
    for batch in plane_batches(torch.arange(len(flat), device=total.device), like=total):
        enough = torch.count_nonzero(worth[batch], dim=1) >= _LEAST_NODES
        usable = worth[batch].double() * enough[:, None]
        found = _fitted(points.expand(len(batch), -1, -1), flat[batch].double().mT, usable)
        out[batch] = flat[batch] - (found[:, :, :2] @ points.mT + found[:, :, 2:]).float()
    return out.reshape(total.shape)
