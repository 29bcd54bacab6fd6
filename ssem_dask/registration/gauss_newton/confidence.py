"""Confidence of pair fields, node by node.

A field is *known* at a node if both sections show tissue there, the two directions of registration agree, nothing folds
and the displacement is within the search range; elsewhere it is NaN (C8). Its raw confidence is

    n = h · max(NCC - 0.05, 0)².

h is the data's Hessian ½ tr(w g gᵀ): how sharply the features determine the displacement. NCC is the local correlation
of the features: whether they agree. The confidence is n relative to a typical n of the volume (to its median over the
window if none was measured), cut at 2 and divided by 2.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.registration.gauss_newton.feature_gradients import gradients
from ssem_dask.registration.gauss_newton.normal_equations import robust_weights
from ssem_dask.registration.gauss_newton.solver import FeatureLevel
from ssem_dask.registration.vector_map import axis_index, axis_matrix

_SQUARE_SIDE = 9  # feature px of the squares that correlation and Hessian are averaged over
_CHANCE_CORRELATION = 0.05  # local correlation that unrelated tissue reaches
_MAX_RELATIVE = 2.0  # raw confidence over the typical one; a few very sharp nodes must not outweigh all others


@dataclass(frozen=True, slots=True)
class MatchMeasures:
    """How well the features match under a batch of pair fields, on the fields' nodes."""

    hessian: Float[Tensor, "n y x"]
    """h."""
    correlation: Float[Tensor, "n y x"]
    """NCC, in [-1, 1]."""
    tissue: Float[Tensor, "n y x"]
    """Share of the surroundings where both sections show tissue."""


def measure_match(
    displacement: Float[Tensor, "n 2 h w"],
    *,
    fixed: FeatureLevel,
    moving: FeatureLevel,
    nodes: Grid,
    cutoff: float,
    mean_residual: float | None = None,
) -> MatchMeasures:
    """Compare the fixed sections with the warped moving ones.

    Args:
        displacement: displacements on the features' pixels, mip-0 px.
        fixed: features of the fixed sections.
        moving: features of the moving sections.
        nodes: grid on which the measures are wanted.
        cutoff: rc of the robust weights.
        mean_residual: ē of the robust weights; None: each pair's own.
    """
    positions = fixed.grid.positions(displacement.device) + displacement
    stacked = torch.cat([moving.features, moving.valid[:, None]], dim=1)
    warped = sample_batch(stacked, grid=moving.grid, positions=positions)
    # The mask is interpolated with the features: a px counts if more than half of its weight comes from tissue.
    inside = moving.grid.contains(positions.transpose(0, 1)) & (warped[:, -1] > 0.5)
    valid = fixed.valid * inside
    a, b = fixed.features, warped[:, :-1]
    # Gradients of both sections, as in the solver (`solver` module): the Hessian then does not favour either.
    (ay, ax), (by, bx) = gradients(a), gradients(b)
    weight = robust_weights(b - a, valid=valid, cutoff=cutoff, mean=mean_residual)
    # ½ tr(w g gᵀ) with g = ½ (∇A + ∇(B ∘ T)): the factor is ½ · (½)².
    hessian = 0.125 * ((ay + by).square() + (ax + bx).square()).sum(dim=1) * weight
    # All maps are averaged in one call; the local moments follow from the means.
    valid_in_both = valid[:, None]
    sums = [(product * valid_in_both).sum(dim=1, keepdim=True) for product in (a * b, a.square(), b.square())]
    maps = torch.cat([a * valid_in_both, b * valid_in_both, *sums, hessian[:, None], valid_in_both], dim=1)
    return average_match_maps(maps, channels=a.shape[1], pixels=fixed.grid, nodes=nodes)


def average_match_maps(maps: Float[Tensor, "n maps h w"], *, channels: int, pixels: Grid, nodes: Grid) -> MatchMeasures:
    """Average maps over squares about the nodes, and combine the means to match measures.

    Args:
        maps: 2 c + 5 maps of each pair: features of both sections, sums over the channels of their product and squares,
            the Hessian, and 1, each 0 where it does not count.
        channels: c.
        pixels: grid of the maps.
        nodes: grid on which the measures are wanted.
    """
    means = _square_means(maps, pixels, nodes)
    share = means[:, -1]
    means = means / share[:, None].clamp(min=1e-6)
    mean_a, mean_b = means[:, :channels], means[:, channels : 2 * channels]
    ab, aa, bb = means[:, -5:-2].unbind(1)
    covariance = ab - (mean_a * mean_b).sum(dim=1)
    variance_a = (aa - mean_a.square().sum(dim=1)).clamp(min=0.0)
    variance_b = (bb - mean_b.square().sum(dim=1)).clamp(min=0.0)
    correlation = covariance / (variance_a * variance_b).sqrt().clamp(min=1e-6)
    return MatchMeasures(means[:, -2], correlation, share)


def raw_confidence(measures: MatchMeasures) -> Float[Tensor, "n y x"]:
    """Compute n, not yet relative to the volume or the window."""
    return measures.hessian * (measures.correlation - _CHANCE_CORRELATION).clamp(min=0.0).square()


def relative_confidence(
    raw: Float[Tensor, "*n y x"], *, known: Bool[Tensor, "*n y x"], typical_confidence: float | None = None
) -> Float[Tensor, "*n y x"]:
    """Scale raw confidences to [0, 1].

    Args:
        raw: raw confidences.
        known: nodes whose field is known; the confidence is 0 elsewhere.
        typical_confidence: typical raw confidence; None: the median over the known nodes.
    """
    known_raw = raw[known]
    if not known_raw.numel():
        return torch.zeros_like(raw)
    typical = known_raw.median() if typical_confidence is None else raw.new_tensor(typical_confidence)
    relative = raw / typical.clamp(min=1e-12)
    return torch.where(known, relative.clamp(max=_MAX_RELATIVE) / _MAX_RELATIVE, torch.zeros_like(raw))


def measure_disagreement(
    *, forward: Float[Tensor, "n 2 y x"], backward: Float[Tensor, "n 2 y x"], nodes: Grid
) -> Float[Tensor, "n y x"]:
    """Return the length of the round trip forward and back, mip-0 px."""
    back = sample_batch(backward, grid=nodes, positions=nodes.positions(forward.device) + forward)
    distance: Tensor = torch.linalg.vector_norm(forward + back, dim=1)
    return distance


def folded_nodes(fields: Float[Tensor, "n 2 y x"], *, spacing: float) -> Bool[Tensor, "n y x"]:
    """Return whether each node is at a corner of a cell with |J| <= 0."""
    if min(fields.shape[-2:]) < 2:
        return torch.zeros_like(fields[:, 0], dtype=torch.bool)
    # A cell is a square between four nodes; max pooling marks all four.
    cells = (jacobian_determinant(fields, spacing=spacing) <= 0).float()
    return max_pool2d(cells[:, None], 2, stride=1, padding=1)[:, 0] > 0


def _square_means(values: Float[Tensor, "n c h w"], pixels: Grid, nodes: Grid) -> Float[Tensor, "n c ny nx"]:
    """Average over squares about each node, at the border over the part inside.

    Means about nodes are interpolated bilinearly between means about pixels.
    """
    # Separable: one small matrix per axis holds both the mean over the square and the interpolation.
    y, x = (_square_weights(pixels, nodes, axis, values.device) for axis in (0, 1))
    return y @ (values @ x.T)


@lru_cache(maxsize=16)
def _square_weights(pixels: Grid, nodes: Grid, axis: int, device: torch.device) -> Float[Tensor, "nodes pixels"]:
    """Compute the weights of one axis."""
    count = pixels.shape[axis]
    index = torch.arange(count)
    near = ((index[:, None] - index[None, :]).abs() <= _SQUARE_SIDE // 2).float()
    at_nodes = axis_matrix(axis_index(nodes, pixels, axis), count=count, kind="bilinear")
    return (at_nodes @ (near / near.sum(dim=1, keepdim=True))).to(device)
