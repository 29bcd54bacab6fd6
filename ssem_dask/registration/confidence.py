"""What pair fields are worth, place by place.

At a node a field is *known* where both sections show tissue, the two directions of registration agree, nothing folds
and the displacement lies within the range of the search; elsewhere it is NaN (C8). Its confidence is

    n = h · max(NCC - 0.05, 0)²,

h the data's Hessian ½ tr(w g gᵀ) (how sharply the features say where they belong) and NCC the local correlation of the
features (whether they say the same), in units of the median of n over the window, cut at 2 and divided by it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.field.quality import jacobian_determinant
from ssem_dask.registration.gauss_newton import FeatureLevel, gradients
from ssem_dask.registration.normal_equations import robust_weights

_SIDE = 9  # feature px of the squares that correlation and Hessian are averaged over
_CHANCE = 0.05  # local correlation that unrelated tissue reaches
_LARGEST = 2.0  # times the median


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the features say about a batch of pair fields, on the fields' nodes."""

    hessian: Tensor
    """`(n, y, x)`, h."""
    correlation: Tensor
    """`(n, y, x)`, in [-1, 1]."""
    tissue: Tensor
    """`(n, y, x)` share of the surroundings where both sections show tissue."""


def evidence(
    displacement: Tensor, *, fixed: FeatureLevel, moving: FeatureLevel, nodes: Grid, cutoff: float
) -> Evidence:
    """Compare the fixed sections with the warped moving ones.

    Args:
        displacement: `(n, 2, h, w)`, mip-0 px, on the features' pixels.
        fixed: features of the fixed sections, `(n, …)`.
        moving: of the moving sections.
        nodes: where evidence is wanted.
        cutoff: rc of the robust weights.
    """
    where = fixed.grid.positions(displacement.device) + displacement
    warped = sample_batch(torch.cat([moving.features, moving.valid[:, None]], dim=1), grid=moving.grid, positions=where)
    inside = moving.grid.contains(where.transpose(0, 1)) & (warped[:, -1] > 0.5)
    valid = fixed.valid * inside
    a, b = fixed.features, warped[:, :-1]
    (ay, ax), (by, bx) = gradients(a), gradients(b)
    weight = robust_weights(b - a, valid=valid, cutoff=cutoff)
    hessian = 0.125 * ((ay + by).square() + (ax + bx).square()).sum(dim=1) * weight
    share = _box(valid[:, None])
    inverse = 1.0 / share.clamp(min=1e-6)
    correlation = _local_correlation(a, b, valid=valid[:, None], inverse=inverse)
    maps = torch.cat([_box(hessian[:, None]) * inverse, correlation, share], dim=1)
    positions = nodes.positions(maps.device).expand(len(maps), -1, -1, -1)
    found = sample_batch(maps, grid=fixed.grid, positions=positions)
    return Evidence(found[:, 0], found[:, 1], found[:, 2])


def raw_confidence(found: Evidence) -> Tensor:
    """n `(n, y, x)`, not yet relative to the window."""
    return found.hessian * (found.correlation - _CHANCE).clamp(min=0.0).square()


def relative_confidence(raw: Tensor, *, known: Tensor) -> Tensor:
    """Confidence in [0, 1]: `raw` in units of its median over what is `known`; 0 where not known."""
    seen = raw[known]
    if not seen.numel():
        return torch.zeros_like(raw)
    scaled = raw / seen.median().clamp(min=1e-12)
    return torch.where(known, scaled.clamp(max=_LARGEST) / _LARGEST, torch.zeros_like(raw))


def disagreement(*, forward: Tensor, backward: Tensor, nodes: Grid) -> Tensor:
    """How far `(n, y, x)`, px, going forward and back again misses the start; fields `(n, 2, y, x)` on `nodes`."""
    back = sample_batch(backward, grid=nodes, positions=nodes.positions(forward.device) + forward)
    missed: Tensor = torch.linalg.vector_norm(forward + back, dim=1)
    return missed


def folded(field: Tensor, *, spacing: float) -> Tensor:
    """Nodes `(y, x)` at a corner of a cell where |J| <= 0, for a field `(2, y, x)`."""
    if min(field.shape[-2:]) < 2:
        return torch.zeros(field.shape[-2:], dtype=torch.bool, device=field.device)
    cells = (jacobian_determinant(field, spacing=spacing) <= 0).float()
    return max_pool2d(cells[None, None], 2, stride=1, padding=1)[0, 0] > 0


def _local_correlation(a: Tensor, b: Tensor, *, valid: Tensor, inverse: Tensor) -> Tensor:
    """Correlation `(n, 1, h, w)` of all channels together in squares of valid px about each pixel."""
    mean_a, mean_b = _box(a * valid) * inverse, _box(b * valid) * inverse
    covariance = (_box((a * b * valid).sum(dim=1, keepdim=True)) * inverse) - (mean_a * mean_b).sum(dim=1, keepdim=True)
    variance_a = _box((a.square() * valid).sum(dim=1, keepdim=True)) * inverse - mean_a.square().sum(1, keepdim=True)
    variance_b = _box((b.square() * valid).sum(dim=1, keepdim=True)) * inverse - mean_b.square().sum(1, keepdim=True)
    return covariance / (variance_a.clamp(min=0.0) * variance_b.clamp(min=0.0)).sqrt().clamp(min=1e-6)


def _box(values: Tensor) -> Tensor:
    """Mean over squares about each pixel; at the border, over the part that lies inside."""
    return avg_pool2d(values, _SIDE, stride=1, padding=_SIDE // 2, count_include_pad=False)
