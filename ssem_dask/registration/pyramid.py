"""Pooling images to coarser pixels (C3).

Pixel j of the pooled image covers the pixels [j·factor, (j+1)·factor) of the given one; a partial last pixel is the
mean of what exists, so the shape is rounded up and pixel centres stay where C3 puts them (except in that last pixel).
Law: pooling by a and then by b equals pooling by a·b where the shape is a multiple of a·b.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


def pool(image: Tensor, factor: int) -> Tensor:
    """Mean over squares of `factor` px.

    Args:
        image: `(…, y, x)` float32.
        factor: pixels (y and x) that become one.

    Returns:
        `(…, ceil(y / factor), ceil(x / factor))`.

    Raises:
        ValueError: factor below 1.
    """
    if factor < 1:
        raise ValueError(f"pool: factor is {factor}, wanted 1 or more.")
    if factor == 1:
        return image
    flat = image.reshape(-1, 1, *image.shape[-2:])
    out = avg_pool2d(flat, factor, stride=factor, ceil_mode=True, count_include_pad=False)
    return out.reshape(*image.shape[:-2], *out.shape[-2:])


def masked_pool(image: Tensor, mask: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Mean over the pixels of each square that are True in `mask`.

    Args:
        image: `(…, y, x)` float32; may be anything, NaN too, where the mask is False.
        mask: bool, the same shape.
        factor: pixels (y and x) that become one.

    Returns:
        The pooled image, 0 where nothing is known, and its mask: True where at least half of the square is.
    """
    weight = pool(mask.to(image.dtype), factor)
    total = pool(torch.where(mask, image, torch.zeros_like(image)), factor)
    mean = torch.where(weight > 0, total / weight.clamp(min=torch.finfo(image.dtype).tiny), torch.zeros_like(total))
    return mean, weight >= 0.5
