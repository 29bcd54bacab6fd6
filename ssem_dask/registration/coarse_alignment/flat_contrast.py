"""Local contrast normalisation over tissue, for comparisons that must not depend on brightness and contrast."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CONTRAST_CLIP = 3.0
"""Local standard deviations at which contrast saturates, so that dirt does not outweigh tissue."""


def flatten_contrast(image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"], radius: int) -> Float[Tensor, "y x"]:
    """Subtract the local mean and divide by the local standard deviation, both over tissue only.

    Args:
        image: float32, any unit; ignored where the mask is False.
        mask: True on tissue.
        radius: half side of the window, px.

    Returns:
        Contrast clipped to ±3, 0 off the mask.
    """
    weight = mask.to(image.dtype)
    known = torch.where(mask, image, torch.zeros_like(image))
    level = known.sum() / weight.sum().clamp(min=1.0)
    centred = (known - level) * weight  # keeps the variance below free of cancellation in float32
    boxes = _box(torch.stack([weight, centred, centred**2]), radius)
    count = boxes[0].clamp(min=1e-6)
    mean = boxes[1] / count
    variance = (boxes[2] / count - mean**2).clamp(min=0.0)
    deviation = variance.sqrt()
    if not bool(mask.any()):
        return torch.zeros_like(image)
    # Flat patches (resin, cell bodies) must not be blown up to the contrast of structure.
    floor = 0.25 * deviation[mask].median() + 1e-6
    contrast = (centred - mean) / torch.maximum(deviation, floor)
    return contrast.clamp(-CONTRAST_CLIP, CONTRAST_CLIP) * weight


def blur(images: Float[Tensor, "n y x"], sigma: float) -> Float[Tensor, "n y x"]:
    """Blur with a Gaussian that is cut at 3 sigma; zero beyond the border."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.nn.functional.conv2d(images[:, None], kernel[None, None, :, None], padding=(reach, 0))
    return torch.nn.functional.conv2d(rows, kernel[None, None, None, :], padding=(0, reach))[:, 0]


def _box(values: Tensor, radius: int) -> Tensor:
    """Average `(n, y, x)` over a square window, zero beyond the border.

    Products with banded matrices, whose time does not grow with the window: for thumbnails, not for whole sections.
    """
    rows, columns = (_band(n, radius, like=values) for n in values.shape[-2:])
    return rows @ values @ columns


def _band(count: int, radius: int, *, like: Tensor) -> Tensor:
    """Make the matrix `(count, count)` that averages values up to `radius` away along an axis."""
    index = torch.arange(count, device=like.device)
    return ((index[:, None] - index).abs() <= radius).to(like.dtype) / (2 * radius + 1)
