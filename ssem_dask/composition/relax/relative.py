"""The relative displacement T of two sections, seen from where the present solution leads.

See `section_fields` for frames and symbols. The affine part of each pair field is taken out before it is sampled, and
added in closed form, so that repeating the border value does no harm if sections were rotated or shifted. Everything is
computed on the device of the pair fields.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.affine import apply_affines, invert_affine
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch, sample_known_batch
from ssem_dask.field.robust import robust_weights
from ssem_dask.types import Float64Array

_MIN_NODES = 16
_MIN_SHARE = 0.02
"""Share of known nodes of a pair field below which it says nothing about the section as a whole."""
_OUTLIER = 2.4
"""Median residuals at which a node has lost half of its weight."""
_IRLS_ITERATIONS = 3
_WELL_DETERMINED = 0.5
"""Determination from which a pair's affine part has its full weight: that of nodes known here and there on half of the
section. Nodes that are all in one half of it have a third of that."""
_FIXED_POINT_ITERATIONS = 3


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """Pair fields in two parts: pair(x) = affine(x) + elastic(x)."""

    affine: Float[Float64Array, "K Z 2 3"]
    """Full maps, mip-0 px; NaN if too little is known."""
    elastic: Float[Tensor, "K Z 2 y x"]
    """Displacements without their affine part; NaN is unknown."""


class RelativeDisplacements(NamedTuple):
    """Relative displacements of all pairs, linearised at a solution."""

    displacement: Float[Tensor, "K Z 2 y x"]
    """T."""
    motion: Float[Tensor, "K Z 2 y x"]
    """n: the natural motion that e leaves."""
    known: Bool[Tensor, "K Z y x"]
    """Where both are known."""


def split_pairs(pairs: Float[Tensor, "K Z 2 y x"], weights: Float[Tensor, "K Z y x"], *, grid: Grid) -> SplitPairs:
    """Fit an affine map to each pair field, robustly, and take it out.

    Args:
        pairs: pair fields.
        weights: of their nodes, 0 where unknown.
        grid: of the nodes.
    """
    points = grid.positions(pairs.device).double().reshape(1, 2, -1).mT
    displacements, node_weight = pairs.flatten(0, 1).flatten(2).mT, weights.flatten(0, 1).flatten(1)
    maps = [
        fit_robust_affines(points, displacements[batch].double(), node_weight[batch].double())
        for batch in plane_batches(torch.arange(len(displacements), device=pairs.device), like=pairs)
    ]
    affine = torch.cat(maps).reshape(*pairs.shape[:2], 2, 3).cpu().numpy()
    return SplitPairs(affine, subtract_affines(pairs, affine, grid=grid))


def fit_robust_affines(
    points: Float[Tensor, "#n p 2"], displacements: Float[Tensor, "n p 2"], weights: Float[Tensor, "n p"]
) -> Float[Tensor, "n 2 3"]:
    """Return the float64 affine maps that most of the displacements follow (IRLS); NaN if too few are known.

    Args:
        points: float64, px.
        displacements: float64, px; arbitrary where the weight is 0.
        weights: 0 where unknown.
    """
    known = weights > 0
    displacements = torch.where(known[..., None], displacements, torch.zeros_like(displacements))
    # Unknown points are replaced as well: they may be NaN, and NaN times weight 0 is NaN.
    points = torch.where(known[..., None], points, torch.zeros_like(displacements))
    unknown = torch.full_like(weights, torch.nan)
    robust = torch.ones_like(weights)
    maps = torch.zeros(len(weights), 2, 3, dtype=torch.float64, device=weights.device)
    for _ in range(_IRLS_ITERATIONS):
        maps = _fit_affine_functions(points, displacements, weights * robust)
        predicted = points @ maps[:, :, :2].mT + maps[:, None, :, 2]
        error = torch.linalg.vector_norm(predicted - displacements, dim=2)
        median = torch.where(known, error, unknown).nanmedian(dim=1, keepdim=True).values
        robust = robust_weights(error, scale=_OUTLIER * median.clamp(min=1e-3), kind="cauchy")
        robust = torch.where(known, robust, torch.zeros_like(robust))
    # From displacements to full maps: add the identity.
    maps[:, 0, 0] += 1.0
    maps[:, 1, 1] += 1.0
    # Too few nodes say little about a whole section; such a pair counts as missing.
    maps[known.sum(dim=1) < max(_MIN_NODES, _MIN_SHARE * known.shape[1])] = torch.nan
    return maps


def affine_weights(
    points: Float[Tensor, "#n p 2"], weights: Float[Tensor, "n p"], *, grid: Grid
) -> Float[Float64Array, " n"]:
    """Return the weight of each pair's affine part, 0 to 1: how well its known nodes determine it.

    The parameters are displacements of the section as a whole, rms over its area. Known nodes in one corner determine
    them badly, however well they agree: the rest is extrapolated. With errors of one size at the nodes, the variance
    of the parameters is proportional to the mean of the inverse eigenvalues of the Gram matrix of (1, y, x), which is
    the identity if all nodes of the section are known.

    Args:
        points: float64, px; arbitrary where the weight is 0.
        weights: of the nodes, 0 where unknown; all nodes of the section.
        grid: of the section.
    """
    known = (weights > 0)[..., None]
    points = torch.where(known, points, torch.zeros_like(points))
    extent = points.new_tensor(grid.shape) * grid.spacing
    # The deviation of a uniform distribution is its width / √12.
    scaled = (points - points.new_tensor(grid.origin) - extent / 2) / extent * 12**0.5
    design = torch.where(known, torch.cat([torch.ones_like(scaled[..., :1]), scaled], dim=2), 0.0)
    # Relative weights only, since the noise of the model covers the confidence of a pair.
    mean = weights.sum(dim=1) / known[..., 0].sum(dim=1).clamp(min=1)
    relative = weights / mean.clamp(min=1e-30)[:, None]
    gram = (design.mT * relative[:, None]) @ design / weights.shape[1]
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=1e-12)
    determined = 1.0 / (1.0 / eigenvalues).mean(dim=1)
    return np.asarray((determined / _WELL_DETERMINED).clamp(max=1.0).cpu().numpy())


def pair_affine_weights(weights: Float[Tensor, "K Z y x"], *, grid: Grid) -> Float[Float64Array, "K Z"]:
    """Return `affine_weights` of pair fields on the nodes of a section."""
    points = grid.positions(weights.device).double().reshape(1, 2, -1).mT
    planes = weights.flatten(0, 1).flatten(1)
    batches = plane_batches(torch.arange(len(planes), device=weights.device), like=planes)
    found = [affine_weights(points, planes[batch].double(), grid=grid) for batch in batches]
    return np.concatenate(found).reshape(tuple(weights.shape[:2]))


def _fit_affine_functions(points: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Return the affine functions `(n, 2, 3)` of points closest to values, both `(n, p, 2)`; 0 without weight."""
    total = weights.sum(dim=1).clamp(min=1e-30)
    # Centred and scaled points make the normal equations well conditioned.
    centre = (weights[..., None] * points).sum(dim=1, keepdim=True) / total[:, None, None]
    centred = points - centre
    size = ((weights * centred.square().sum(dim=2)).sum(dim=1) / total).sqrt().clamp(min=1e-30)
    design = torch.cat([centred / size[:, None, None], torch.ones_like(centred[..., :1])], dim=2)
    weighted = (weights / total[:, None])[..., None] * design
    # The pseudo-inverse, since known points may all be on a line.
    solution = (torch.linalg.pinv(weighted.mT @ design, hermitian=True) @ (weighted.mT @ values)).mT
    linear = solution[..., :2] / size[:, None, None]
    return torch.cat([linear, solution[..., 2:] - linear @ centre.mT], dim=2)


def subtract_affines(
    pairs: Float[Tensor, "K Z 2 y x"], affine: Float[Float64Array, "K Z 2 3"], *, grid: Grid
) -> Float[Tensor, "K Z 2 y x"]:
    """Return pair fields without affine maps that were fitted to them; NaN where a map is NaN."""
    positions = grid.positions(pairs.device).double()
    maps = torch.from_numpy(affine).to(pairs.device).flatten(0, 1)
    elastic, flat = torch.empty_like(pairs).flatten(0, 1), pairs.flatten(0, 1)
    for batch in plane_batches(torch.arange(len(flat), device=pairs.device), like=pairs):
        # The difference is taken in double precision: positions are far larger than displacements.
        elastic[batch] = flat[batch] - (apply_affines(maps[batch], positions) - positions).float()
    return elastic.reshape(pairs.shape)


def relative_displacements(
    split: SplitPairs,
    *,
    affine_correction: Float[Float64Array, "Z 2 3"],
    elastic: Float[Tensor, "Z 2 y x"],
    motion: Float[Tensor, "K Z 2 y x"],
    grid: Grid,
) -> RelativeDisplacements:
    """Return T and the natural motion that e leaves, linearised at a solution.

    Args:
        split: pair fields.
        affine_correction: C.
        elastic: e, the present estimate.
        motion: n as found in the round before, or 0.
        grid: of the nodes.
    """
    device = split.elastic.device
    positions = grid.positions(device)
    pair_maps = torch.from_numpy(split.affine).to(device)
    corrections = torch.from_numpy(affine_correction).to(device)
    inverses = torch.from_numpy(np.stack([invert_affine(c) for c in affine_correction])).to(device)
    displacement = torch.zeros_like(split.elastic)
    motion_left = torch.zeros_like(split.elastic)
    known = torch.zeros(*split.elastic.shape[:2], *grid.shape, dtype=torch.bool, device=device)
    for k, z in _existing_pairs(split):
        moving = z - k - 1
        # q(x + e) = C⁻¹ ∘ p ∘ C (x + e): correct, follow the pair field, undo the correction of the other section.
        start = apply_affines(corrections[z], (positions + elastic[z]).double())
        sampled = sample_known_batch(split.elastic[k, z], grid=grid, positions=start.float())
        # The border value repeats beyond the grid, which is a guess: nothing is known there.
        sampled_known = torch.isfinite(sampled).all(dim=1) & grid.contains(start.float().transpose(0, 1))
        end = apply_affines(pair_maps[k, z], start) + torch.nan_to_num(sampled)
        reached = (apply_affines(inverses[moving], end) - positions).float()
        elastic_before, n = elastic[moving], motion[k, z]
        # Fixed point of n = reached - e_{z-k}(x + n): where in the moving section the pair leads.
        for _ in range(_FIXED_POINT_ITERATIONS):
            n = reached - sample_batch(elastic_before, grid=grid, positions=positions + n)
        motion_left[k, z] = n
        # T adds back what e undoes already, so that the prior of e is the same in all rounds.
        displacement[k, z] = n + elastic_before - elastic[z]
        known[k, z] = sampled_known
    return RelativeDisplacements(displacement, motion_left, known)


def _existing_pairs(split: SplitPairs) -> Iterator[tuple[int, Tensor]]:
    """Yield k - 1 and some z at a time, of pairs that have an affine map."""
    steps, count = split.affine.shape[:2]
    fitted = np.asarray(np.isfinite(split.affine).all(axis=(2, 3)))
    for k in range(steps):
        sections = [z for z in range(k + 1, count) if fitted[k, z]]
        indices = torch.tensor(sections, dtype=torch.long, device=split.elastic.device)
        for batch in plane_batches(indices, like=split.elastic):
            if len(batch):
                yield k, batch


def remove_affine_parts(
    displacements: Float[Tensor, "K Z 2 y x"], weights: Float[Tensor, "K Z y x"], *, grid: Grid
) -> Float[Tensor, "K Z 2 y x"]:
    """Return each T without its affine part, which the affine level answers for."""
    points = grid.positions(displacements.device).double().reshape(1, 2, -1).mT
    flat, node_weight = displacements.flatten(0, 1).flatten(2), weights.flatten(0, 1).flatten(1)
    out = torch.empty_like(flat)
    for batch in plane_batches(torch.arange(len(flat), device=displacements.device), like=displacements):
        # Of a handful of nodes an affine fit would remove everything: such pairs keep what they say.
        enough = torch.count_nonzero(node_weight[batch], dim=1) >= _MIN_NODES
        usable = node_weight[batch].double() * enough[:, None]
        maps = _fit_affine_functions(points.expand(len(batch), -1, -1), flat[batch].double().mT, usable)
        out[batch] = flat[batch] - (maps[:, :, :2] @ points.mT + maps[:, :, 2:]).float()
    return out.reshape(displacements.shape)
