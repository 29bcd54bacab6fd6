"""Objective of ssEMnet, L_v (Yoo et al. 2017, arXiv 1707.07833, eq. 4 and 5).

    L_v(I₀; I₁…I_n) = Σᵢ wᵢ · M(T_v) ‖f(Iᵢ) - f(T_v(I₀))‖² + α‖v‖² + β‖∇v_x‖² + γ‖∇v_y‖²

I₀ is the moving section, Iᵢ are the neighbours, f is the encoder, M masks what is inside the image after warping. The
paper's sums depend on the size of the image and of the features. Here every term is a mean: the feature error per cell
relative to the spread of the features (0 for equal, about 1 for unrelated tissue), ∇v as strain (px per px), and v in
units of the node spacing. The weights therefore mean the same at any size, scale and encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True, slots=True)
class Target:
    """Features that the moving section is compared with: one neighbour at one level."""

    features: Float[Tensor, "c h w"]
    """Features of the warped neighbour."""
    mask: Float[Tensor, "h w"]
    """Values in [0, 1]: 0 where the neighbour has no tissue."""
    weight: float
    """wᵢ; the weights of all neighbours sum to 1."""


def feature_spread(features: Float[Tensor, "c h w"], *, mask: Float[Tensor, "h w"]) -> Float[Tensor, ""]:
    """Sum the channels' variances over the cells of `mask`; at least 1e-6."""
    total = mask.sum().clamp(min=1e-6)
    mean = (features * mask).sum(dim=(1, 2), keepdim=True) / total
    return (((features - mean).square() * mask).sum() / total).clamp(min=1e-6)


def mask_on_features(mask: Shaped[Tensor, "y x"], *, shape: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Resize a binary mask bilinearly to the feature map."""
    return interpolate(mask.float()[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]


def drop_largest(error: Float[Tensor, "h w"], *, mask: Float[Tensor, "h w"], share: float) -> Float[Tensor, "h w"]:
    """Set the mask to 0 where the error is among the largest `share` of the cells inside (loss drop).

    Cells where the mask is 0 are not counted.
    """
    inside = mask > 0
    candidates = error[inside]
    keep = candidates.numel() - int(share * candidates.numel())
    if share <= 0 or keep < 1 or keep == candidates.numel():
        return mask
    threshold = candidates.kthvalue(keep).values
    return torch.where(error <= threshold, mask, torch.zeros_like(mask))


def data_term(
    moving: Float[Tensor, "c h w"],
    *,
    targets: Sequence[Target],
    moving_mask: Float[Tensor, "h w"],
    spreads: Sequence[Float[Tensor, ""]],
    drop: float,
) -> Float[Tensor, ""]:
    """Compute Σᵢ wᵢ · mean over M of ‖f(Iᵢ) - f(T_v(I₀))‖² / (2 spread).

    Args:
        moving: features of the warped moving section.
        targets: the neighbours.
        moving_mask: M(T_v), taken as a constant: else tissue would be pushed out of the image to lower the error.
        spreads: `feature_spread` of each neighbour.
        drop: share of the cells, those of largest error, that are ignored.
    """
    total = moving.new_zeros(())
    for target, spread in zip(targets, spreads, strict=True):
        error = (moving - target.features).square().sum(dim=0)
        mask = drop_largest(error.detach(), mask=target.mask * moving_mask, share=drop)
        # A mean over the whole map, not over the mask: a neighbour that is half empty has half the weight.
        total = total + target.weight * (error * mask).sum() / (2.0 * spread * mask.numel() * (1.0 - drop))
    return total


def smoothness_term(
    values: Float[Tensor, "2 ny nx"], *, spacing: float, alpha: float, beta: float, gamma: float
) -> Float[Tensor, ""]:
    """Compute α‖v‖² + β‖∇v_x‖² + γ‖∇v_y‖² as means over the nodes of v, mip-0 px (C1: v_y first).

    v is relative to the coarse alignment, else the first term would work against the shift between sections.
    """
    scaled = values / spacing
    down, right = scaled[:, 1:] - scaled[:, :-1], scaled[:, :, 1:] - scaled[:, :, :-1]
    strain = down.square().mean(dim=(1, 2)) + right.square().mean(dim=(1, 2))
    return alpha * scaled.square().sum(dim=0).mean() + gamma * strain[0] + beta * strain[1]
