"""What pair fields are worth, place by place.

At a node a field is *known* where both sections show tissue, the two directions of registration agree, nothing folds
and the displacement lies within the range of the search; elsewhere it is NaN (C8). Its confidence is

    n = h · max(NCC - 0.05, 0)²,

h the data's Hessian ½ tr(w g gᵀ) (how sharply the features say where they belong) and NCC the local correlation of the
features (whether they say the same), in units of what n typically is in the volume (where that was not measured, of its
median over the window), cut at 2 and divided by it.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.registration.gauss_newton.normal_equations import robust_weights
from ssem_dask.registration.gauss_newton.solver import FeatureLevel, gradients
from ssem_dask.registration.vector_map import axis_index, axis_matrix

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
    displacement: Tensor,
    *,
    fixed: FeatureLevel,
    moving: FeatureLevel,
    nodes: Grid,
    cutoff: float,
    error: float | None = None,
) -> Evidence:
    """Compare the fixed sections with the warped moving ones.

    Args:
        displacement: `(n, 2, h, w)`, mip-0 px, on the features' pixels.
        fixed: features of the fixed sections, `(n, …)`.
        moving: of the moving sections.
        nodes: where evidence is wanted.
        cutoff: rc of the robust weights.
        error: ē of these; None: each pair's own.
    """
    where = fixed.grid.positions(displacement.device) + displacement
    warped = sample_batch(torch.cat([moving.features, moving.valid[:, None]], dim=1), grid=moving.grid, positions=where)
    inside = moving.grid.contains(where.transpose(0, 1)) & (warped[:, -1] > 0.5)
    valid = fixed.valid * inside
    a, b = fixed.features, warped[:, :-1]
    (ay, ax), (by, bx) = gradients(a), gradients(b)
    weight = robust_weights(b - a, valid=valid, cutoff=cutoff, mean=error)
    hessian = 0.125 * ((ay + by).square() + (ax + bx).square()).sum(dim=1) * weight
    both = valid[:, None]
    products = [(of * both).sum(dim=1, keepdim=True) for of in (a * b, a.square(), b.square())]
    maps = torch.cat([a * both, b * both, *products, hessian[:, None], both], dim=1)
    return evidence_of(maps, channels=a.shape[1], pixels=fixed.grid, nodes=nodes)


def evidence_of(maps: Tensor, *, channels: int, pixels: Grid, nodes: Grid) -> Evidence:
    """Evidence from what is averaged.

    Args:
        maps: `(n, 2 c + 5, h, w)`: features of both sections, sums over the channels of their product and squares, the
            Hessian, and 1, each 0 where it does not count.
        channels: c.
        pixels: grid of the maps.
        nodes: where evidence is wanted.
    """
    means = _around(maps, pixels, nodes)
    share = means[:, -1]
    means = means / share[:, None].clamp(min=1e-6)
    mean_a, mean_b = means[:, :channels], means[:, channels : 2 * channels]
    ab, aa, bb = means[:, -5:-2].unbind(1)
    covariance = ab - (mean_a * mean_b).sum(dim=1)
    variance_a = (aa - mean_a.square().sum(dim=1)).clamp(min=0.0)
    variance_b = (bb - mean_b.square().sum(dim=1)).clamp(min=0.0)
    correlation = covariance / (variance_a * variance_b).sqrt().clamp(min=1e-6)
    return Evidence(means[:, -2], correlation, share)


def raw_confidence(found: Evidence) -> Tensor:
    """n `(n, y, x)`, not yet relative to the window."""
    return found.hessian * (found.correlation - _CHANCE).clamp(min=0.0).square()


def relative_confidence(raw: Tensor, *, known: Tensor, typical: float | None = None) -> Tensor:
    """Confidence in [0, 1]: `raw` in units of what is typical, else of its median over what is `known`; 0 elsewhere."""
    seen = raw[known]
    if not seen.numel():
        return torch.zeros_like(raw)
    scaled = raw / (seen.median() if typical is None else raw.new_tensor(typical)).clamp(min=1e-12)
    return torch.where(known, scaled.clamp(max=_LARGEST) / _LARGEST, torch.zeros_like(raw))


def disagreement(*, forward: Tensor, backward: Tensor, nodes: Grid) -> Tensor:
    """How far `(n, y, x)`, px, going forward and back again misses the start; fields `(n, 2, y, x)` on `nodes`."""
    back = sample_batch(backward, grid=nodes, positions=nodes.positions(forward.device) + forward)
    missed: Tensor = torch.linalg.vector_norm(forward + back, dim=1)
    return missed


def folded(fields: Tensor, *, spacing: float) -> Tensor:
    """Nodes `(n, y, x)` at a corner of a cell where |J| <= 0, for fields `(n, 2, y, x)`."""
    if min(fields.shape[-2:]) < 2:
        return torch.zeros_like(fields[:, 0], dtype=torch.bool)
    cells = (jacobian_determinant(fields, spacing=spacing) <= 0).float()
    return max_pool2d(cells[:, None], 2, stride=1, padding=1)[:, 0] > 0


def _around(values: Tensor, pixels: Grid, nodes: Grid) -> Tensor:
    """Means `(n, c, ny, nx)` of `(n, c, h, w)` over squares about each node, bilinear between those about pixels; at
    the border over the part that lies inside.
    """
    y, x = (_squares(pixels, nodes, axis, values.device) for axis in (0, 1))
    return y @ (values @ x.T)


@lru_cache(maxsize=16)
def _squares(pixels: Grid, nodes: Grid, axis: int, device: torch.device) -> Tensor:
    """Weights `(nodes, pixels)` of one axis."""
    count = pixels.shape[axis]
    index = torch.arange(count)
    near = ((index[:, None] - index[None, :]).abs() <= _SIDE // 2).float()
    at_nodes = axis_matrix(axis_index(nodes, pixels, axis), count=count, kind="bilinear")
    return (at_nodes @ (near / near.sum(dim=1, keepdim=True))).to(device)
