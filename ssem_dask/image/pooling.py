"""Pooling images to coarser pixels (C3).

Pixel j of the pooled image covers the pixels [j·factor, (j+1)·factor) of the original. A partial last pixel is the mean
of the pixels that exist, so the shape is rounded up and pixel centres agree with C3 (except in that last pixel).
Law: pooling by a and then by b equals pooling by a·b if the shape is a multiple of a·b.
Law: halving whole numbers is pooling them by 2 and rounding, half to even.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.types import AnyArray

_ROWS = 64
"""Rows of a pooled section that are computed at once, so that intermediate results stay in the caches."""


def pool(image: Float[Tensor, "*n y x"], factor: int) -> Float[Tensor, "*n h w"]:
    """Average over squares of `factor` px; the shape is rounded up.

    Args:
        image: float32.
        factor: pixels (y and x) that become one.

    Raises:
        ValueError: the factor is below 1.
    """
    if factor < 1:
        raise ValueError(f"pool: factor is {factor}, wanted 1 or more.")
    if factor == 1:
        return image
    flat = image.reshape(-1, 1, *image.shape[-2:])
    out = avg_pool2d(flat, factor, stride=factor, ceil_mode=True, count_include_pad=False)
    return out.reshape(*image.shape[:-2], *out.shape[-2:])


def halve(pixels: AnyArray) -> AnyArray:
    """Average over squares of 2 px, rounded; in whole numbers, ten times as fast as `pool`.

    Args:
        pixels: `(z, y, x)` uint8 or uint16.

    Returns:
        `(z, ceil(y / 2), ceil(x / 2))` of the same dtype.

    Raises:
        ValueError: the pixels are of another dtype.
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"halve: pixels are {pixels.dtype}, wanted uint8 or uint16.")
    sums = np.dtype(np.uint16 if pixels.dtype == np.uint8 else np.uint32)
    z, y, x = pixels.shape
    out = np.empty((z, (y + 1) // 2, (x + 1) // 2), dtype=pixels.dtype)
    for section, halved in zip(pixels, out, strict=True):
        for first in range(0, len(halved), _ROWS):
            rows = section[2 * first : 2 * (first + _ROWS)]
            if rows.shape[0] % 2 or x % 2:
                # A last row or column without a second one counts twice, which does not change its mean.
                rows = np.pad(rows, [(0, n % 2) for n in rows.shape], mode="edge")
            pairs = rows[0::2].astype(sums)
            pairs += rows[1::2]
            total = pairs[:, 0::2] + pairs[:, 1::2]
            total += 1 + ((total >> 2) & 1)  # half to even: 4 q + 2 is half-way between q and q + 1
            halved[first : first + _ROWS] = total >> 2
    return out


def masked_pool(
    image: Float[Tensor, "*n y x"], mask: Bool[Tensor, "*n y x"], factor: int
) -> tuple[Float[Tensor, "*n h w"], Bool[Tensor, "*n h w"]]:
    """Average over the pixels of each square that are True in `mask`.

    Args:
        image: float32; any value, also NaN, where the mask is False.
        mask: pixels that count.
        factor: pixels (y and x) that become one.

    Returns:
        The pooled image, 0 where no pixel counts, and its mask: True where at least half of the square counts.
    """
    weight = pool(mask.to(image.dtype), factor)
    total = pool(torch.where(mask, image, torch.zeros_like(image)), factor)
    mean = torch.where(weight > 0, total / weight.clamp(min=torch.finfo(image.dtype).tiny), torch.zeros_like(total))
    return mean, weight >= 0.5
