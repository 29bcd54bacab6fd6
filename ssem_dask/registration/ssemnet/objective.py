"""The objective of the founding method, L_v (Yoo et al. 2017, arXiv 1707.07833, eq. 4 and 5):

    L_v(I₀; I₁…I_n) = Σᵢ wᵢ · M(T_v) ‖f(Iᵢ) - f(T_v(I₀))‖² + α‖v‖² + β‖∇v_x‖² + γ‖∇v_y‖²

I₀ is the moving section, Iᵢ the neighbours, f the encoder, M the mask of what lies inside the image after warping.
The paper's sums depend on the size of the image and of the features. Here every term is a mean: the feature error per
cell relative to the spread of the features (0 for equal, about 1 for unrelated tissue), ∇v as strain (px per px), and
v in units of the node spacing. So the weights mean the same at any size, scale and encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True, slots=True)
class Target:
    """What the moving section shall look like, from one neighbour, at one level."""

    features: Tensor
    """`(c, h, w)` of the warped neighbour."""
    mask: Tensor
    """`(h, w)` float32 in [0, 1]: 0 where the neighbour has no tissue."""
    weight: float
    """wᵢ; the weights of all neighbours sum to 1."""


def feature_spread(features: Tensor, *, mask: Tensor) -> Tensor:
    """Variance of features `(c, h, w)` over the cells of `mask` `(h, w)`, summed over the channels; at least 1e-6."""
    total = mask.sum().clamp(min=1e-6)
    mean = (features * mask).sum(dim=(1, 2), keepdim=True) / total
    return (((features - mean).square() * mask).sum() / total).clamp(min=1e-6)


def mask_on_features(mask: Tensor, *, shape: tuple[int, int]) -> Tensor:
    """Resize a binary mask `(y, x)` bilinearly to the feature map."""
    return interpolate(mask.float()[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]


def without_largest(error: Tensor, *, mask: Tensor, share: float) -> Tensor:
    """Loss drop: `mask` `(h, w)` with 0 where `error` is among the largest `share` of the cells inside.

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
    moving: Tensor, *, targets: Sequence[Target], moving_mask: Tensor, spreads: Sequence[Tensor], drop: float
) -> Tensor:
    """Σᵢ wᵢ · mean over M of ‖f(Iᵢ) - f(T_v(I₀))‖² / (2 spread).

    Args:
        moving: `(c, h, w)` features of the warped moving section.
        targets: the neighbours.
        moving_mask: `(h, w)` float32, M(T_v); taken as a constant, else tissue would be pushed out of the image to
            lower the error.
        spreads: `feature_spread` of each neighbour.
        drop: share of the cells, those of largest error, that do not count.
    """
    total = moving.new_zeros(())
    for target, spread in zip(targets, spreads, strict=True):
        error = (moving - target.features).square().sum(dim=0)
        mask = without_largest(error.detach(), mask=target.mask * moving_mask, share=drop)
        # A mean over the whole map, not over the mask: a neighbour that is half empty says half as much.
        total = total + target.weight * (error * mask).sum() / (2.0 * spread * mask.numel() * (1.0 - drop))
    return total


def regularity(values: Tensor, *, spacing: float, alpha: float, beta: float, gamma: float) -> Tensor:
    """α‖v‖² + β‖∇v_x‖² + γ‖∇v_y‖² as means over the nodes of `values` `(2, ny, nx)`, mip-0 px (C1: v_y first).

    v is relative to the coarse alignment, else the first term would fight the shift between sections.
    """
    scaled = values / spacing
    down, right = scaled[:, 1:] - scaled[:, :-1], scaled[:, :, 1:] - scaled[:, :, :-1]
    strain = down.square().mean(dim=(1, 2)) + right.square().mean(dim=(1, 2))
    return alpha * scaled.square().sum(dim=0).mean() + gamma * strain[0] + beta * strain[1]
