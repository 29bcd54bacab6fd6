"""`lcn.local_contrast` in two passes over the pixels."""

import torch
import triton
from torch import Tensor

from ssem_dask.registration.triton.kernels import contrast_kernels as kernels

_PIXELS = 1024
_BLOCKS = 16  # blocks of a program


def block_moments(images: Tensor, *, valid: Tensor, side: int) -> Tensor:
    """Of blocks of `side` px the number of valid px, their mean, the sum of squares about it: `(3, n, rows, columns)`.

    Args:
        images: `(n, y, x)` float32.
        valid: `(n, y, x)` bool.
        side: a power of two.
    """
    n, h, w = images.shape
    rows, columns = triton.cdiv(h, side), triton.cdiv(w, side)
    moments = torch.empty(3, n, rows, columns, device=images.device)
    kernels.block_moments[triton.cdiv(columns, _BLOCKS), rows, n](
        images.contiguous(), valid.contiguous(), moments, h, w, rows, columns, side=side, blocks=_BLOCKS
    )
    return moments


def normalised(
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
    """Contrast `(n, y, x)`: centred and scaled images relative to mean and deviation of blocks, bilinear between these.

    Args:
        images: `(n, y, x)` float32.
        valid: `(n, y, x)` bool.
        mean: `(n, rows, columns)`.
        deviation: the same.
        centre: `(n,)`.
        spread: `(n,)`.
        side: px of a block.
        clip: largest contrast.
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
