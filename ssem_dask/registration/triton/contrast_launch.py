"""`local_contrast.normalise_contrast` in two passes over the pixels."""

import torch
import triton
from torch import Tensor

from ssem_dask.registration.triton.kernels import contrast_kernels as kernels

_PIXELS = 1024  # px per program
_BLOCKS = 16  # blocks per program


def block_moments(images: Tensor, *, valid: Tensor, side: int) -> Tensor:
    """Compute moments of blocks of `side` px.

    Args:
        images: `(n, y, x)` float32.
        valid: `(n, y, x)` bool.
        side: a power of two.

    Returns:
        Number of valid px, their mean, and the sum of squares about it: `(3, n, rows, columns)`.
    """
    n, h, w = images.shape
    rows, columns = triton.cdiv(h, side), triton.cdiv(w, side)
    moments = torch.empty(3, n, rows, columns, device=images.device)
    kernels.block_moments[triton.cdiv(columns, _BLOCKS), rows, n](
        images.contiguous(), valid.contiguous(), moments, h, w, rows, columns, side=side, blocks=_BLOCKS
    )
    return moments


def normalise_blocks(
    images: Tensor,
    *,
    valid: Tensor,
    mean: Tensor,
    deviation: Tensor,
    centre: Tensor,
    spread: Tensor,
    side: int,
    clip: float,
) -> Tensor:
    """Normalise centred and scaled images by mean and deviation of blocks, interpolated bilinearly between these.

    Args:
        images: `(n, y, x)` float32.
        valid: `(n, y, x)` bool.
        mean: `(n, rows, columns)`.
        deviation: `(n, rows, columns)`.
        centre: `(n,)`.
        spread: `(n,)`.
        side: px of a block.
        clip: largest contrast.

    Returns:
        Contrast `(n, y, x)`.
    """
    n, h, w = images.shape
    out = torch.empty(n, h, w, device=images.device)
    kernels.normalise[triton.cdiv(h * w, _PIXELS), n](
        images.contiguous(),
        valid.contiguous(),
        mean.contiguous(),
        deviation.contiguous(),
        centre.contiguous(),
        spread.contiguous(),
        out,
        h,
        w,
        *mean.shape[1:],
        float(side),
        clip,
        block=_PIXELS,
    )
    return out
