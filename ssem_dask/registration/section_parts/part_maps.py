"""Maps of the parts of a section, from the displacements of its blocks.

A section that was folded, cracked or stitched wrongly consists of parts, each with an affine map of its own. The parts
are found greedily, as in Isack and Boykov, *Energy-based geometric multi-model fitting* (2012): one map for all blocks,
then the displacement that explains best what is left; labels minimise a robust cost that is averaged over neighbouring
blocks, so parts are connected regions; maps and labels are refined in turn.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ssem_dask.registration.section_parts.block_matching import BLOCK, BlockMatches
from ssem_dask.types import IndexArray

MAX_PARTS = 3
_TOLERANCE = 3.0  # px; distortion within a part that an affine map cannot follow, and the error of a match
_COMMON = 0.5 * BLOCK  # px, standard deviation of the weights of neighbouring blocks in the cost of a label
_GRADIENT = 0.03  # standard deviation of scale and shear of a part against its neighbours
_CANDIDATES = 400  # displacements that are tried for a further part
_STARTS = 4  # displacements from which a further part is refined
_ROUNDS = 6  # of labels and maps
_OF_ONE_REGION = 0.75  # share of a block's px that belong to one region
_LEAST_SHARE = 0.06  # of the blocks of a part


@dataclass(frozen=True, slots=True)
class PartFit:
    """Parts of a section, by its blocks."""

    maps: Float[Tensor, "p 2 3"]
    """Affine displacement of each part `d = A @ (y, x, 1)`, px: from the section to its neighbours."""
    labels: Int64[Tensor, "n"]
    """Part of each match."""
    costs: tuple[float, ...]
    """Mean robust cost with 1, 2, … parts, in squared tolerances: 0 is a perfect fit, 1 is none."""


def fit_parts(matches: BlockMatches, *, most: int = MAX_PARTS, least_gain: float = 0.0) -> list[PartFit]:
    """Fit affine maps to the displacements of blocks; return the fits with 1, 2, … parts.

    Args:
        matches: of one section with some neighbours.
        most: largest number of parts.
        least_gain: by which a further part must lower the mean robust cost.
    """
    ones = torch.ones(len(matches.positions), 1)
    places = torch.cat([matches.positions, ones], dim=1)
    weights = matches.correlations.clamp_min(1e-3)
    distance = torch.cdist(matches.positions, matches.positions)
    common = distance.div_(_COMMON).square_().mul_(-0.5).exp_().mul_(weights)
    common /= common.sum(dim=1, keepdim=True)
    step = max(1, len(places) // _CANDIDATES)
    shifts = matches.displacements[::step]

    shifted = _cost_of(matches.displacements[:, None] - shifts)
    maps, least, costs = places.new_zeros(0, 2, 3), places.new_ones(len(places)), list[float]()
    fits: list[PartFit] = []
    for _ in range(most):
        if fits and costs[-1] < least_gain:
            break
        # Averaged over neighbouring blocks: one that matches by chance makes no part.
        if not fits:  # no cost is above the mean of ones that the sections have without a map
            gains = weights.sum() - (weights @ common) @ shifted
        else:
            shifted = common @ shifted if len(fits) == 1 else shifted
            gains = weights @ (least[:, None] - shifted).clamp_min(0)
        starts = torch.stack([_shift_map(shift) for shift in _distinct(shifts[gains.argsort(descending=True)])])
        trials = torch.cat([maps.expand(len(starts), *maps.shape), starts[:, None]], dim=1)
        refined, labels, found = _refined(trials, places, matches.displacements, weights, common)
        best = int(found.argmin())
        cost = float(found[best])
        if fits and (
            int(torch.bincount(labels[best], minlength=len(trials[best])).min()) < _LEAST_SHARE * len(places)
            or costs[-1] - cost < least_gain
        ):
            break
        maps = refined[best]
        least = (common @ _costs(maps, places, matches.displacements)).min(dim=1).values
        costs.append(cost)
        fits.append(PartFit(maps, labels[best], tuple(costs)))
    return fits


def fit_regions(matches: BlockMatches, regions: Int64[IndexArray, "y x"]) -> tuple[BlockMatches, PartFit]:
    """Fit one affine map to the displacements of the blocks in each region; blocks across two regions are left out.

    Args:
        matches: of one section with some neighbours.
        regions: 0, 1, … of each px, -1 for none.

    Returns:
        The matches that are left, and their fit.
    """
    labels, half = [], BLOCK // 2
    for y, x in matches.positions.long().tolist():
        inside = regions[y - half : y + half, x - half : x + half]
        counts = np.bincount(inside[inside >= 0], minlength=1)
        labels.append(int(counts.argmax()) if counts.max() > _OF_ONE_REGION * max(1, counts.sum()) else -1)
    used = torch.tensor(labels) >= 0
    kept, part = matches.part(used), torch.tensor(labels)[used]
    maps, cost = [], 0.0
    for region in range(int(regions.max()) + 1):
        if not bool((part == region).any()):
            maps.append(_shift_map(matches.positions.new_zeros(2)))
            continue
        (fit,) = fit_parts(kept.part(part == region), most=1)
        maps.append(fit.maps[0])
        cost += fit.costs[0] * float((part == region).float().mean())
    return kept, PartFit(torch.stack(maps), part, (cost,))


def unexplained(matches: BlockMatches, fit: PartFit) -> Bool[Tensor, "n"]:
    """Return the matches that no map of a fit predicts within the tolerance."""
    places = torch.cat([matches.positions, torch.ones(len(matches.positions), 1)], dim=1)
    return _costs(fit.maps, places, matches.displacements).amin(dim=1) >= 1.0


def _refined(
    maps: Tensor, places: Tensor, displacements: Tensor, weights: Tensor, common: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps, labels and mean cost after some rounds of labels and maps in turn, from several starts at once.

    Args:
        maps: `(s, p, 2, 3)`, of s starts.
        places: (y, x, 1) of the matches `(n, 3)`.
        displacements: `(n, 2)`.
        weights: `(n,)`.
        common: weights `(n, n)` of the matches in the cost of a label.
    """
    labels = places.new_zeros(len(maps), len(places), dtype=torch.long)
    parts = torch.arange(maps.shape[1])
    for _ in range(_ROUNDS):
        if len(parts) > 1:
            costs = _costs(maps, places, displacements)
            labels = torch.einsum("mn,snp->smp", common, costs).argmin(dim=2)
        own = weights * (labels[:, None] == parts[:, None])
        maps = _refit(maps.flatten(0, 1), places, displacements, own.flatten(0, 1)).reshape(maps.shape)
    values = _costs(maps, places, displacements).gather(2, labels[..., None])[..., 0]
    return maps, labels, values @ weights / weights.sum()


def _shift_map(shift: Tensor) -> Tensor:
    return torch.cat([torch.zeros(2, 2), shift[:, None]], dim=1)


def _distinct(shifts: Tensor) -> Tensor:
    """Return the first shifts that differ from each other."""
    kept: list[int] = []
    values = shifts.tolist()
    for i, shift in enumerate(values):
        if all(math.dist(shift, values[other]) > _TOLERANCE for other in kept):
            kept.append(i)
        if len(kept) == _STARTS:
            break
    return shifts[kept]


def _cost_of(residuals: Tensor) -> Tensor:
    return (residuals.square().sum(dim=-1) / _TOLERANCE**2).clamp_max(1.0)


def _costs(maps: Tensor, places: Tensor, displacements: Tensor) -> Tensor:
    """Return the cost `(…, n, p)` of each match under each map `(…, p, 2, 3)`."""
    return _cost_of(displacements[:, None] - torch.einsum("...pij,nj->...npi", maps, places))


def _refit(starts: Tensor, places: Tensor, displacements: Tensor, weights: Tensor) -> Tensor:
    """Fit affine displacements by reweighted least squares from starts, with little scale and shear.

    Args:
        starts: maps `(b, 2, 3)`; one whose weights are all 0 stays unchanged.
        places: (y, x, 1) of the matches `(n, 3)`.
        displacements: `(n, 2)`.
        weights: `(b, n)`.
    """
    total = weights.sum(dim=1)
    middle = weights @ places[:, :2] / total.clamp_min(1e-30)[:, None]
    centred = places - torch.nn.functional.pad(middle, (0, 1))[:, None]
    shift = (starts[:, :, :2] @ middle[..., None])[..., 0]
    found = torch.cat([starts[:, :, :2], (starts[:, :, 2] + shift)[..., None]], dim=2)
    # The prior, for matches whose standard deviation is a third of the tolerance.
    prior = (_TOLERANCE / 3 / _GRADIENT) ** 2 * weights.amax(dim=1)
    # A map without matches has no normal equations; any regular matrix will do.
    regular = torch.diag_embed(torch.stack([prior, prior, torch.zeros_like(prior)], dim=1))
    regular = torch.where((total > 0)[:, None, None], regular, torch.eye(3))
    for _ in range(4):
        residual = (displacements - centred @ found.mT).square().sum(dim=2) / _TOLERANCE**2
        # Geman-McClure: far matches do not count.
        weighted = (weights / (1.0 + residual).square())[..., None] * centred
        found = torch.linalg.solve(weighted.mT @ centred + regular, weighted.mT @ displacements).mT
    shift = (found[:, :, :2] @ middle[..., None])[..., 0]
    found = torch.cat([found[:, :, :2], (found[:, :, 2] - shift)[..., None]], dim=2)
    return torch.where((total > 0)[:, None, None], found, starts)
