"""Means over a square around each pixel, and quantiles of many values: what torch does, at a fraction of the time."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def square_mean(values: Float[Tensor, "*n y x"], side: int, *, inside: bool = False) -> Float[Tensor, "*n y x"]:
    """Average over a square around each pixel, with zeros outside the image; along y and then along x.

    The result is that of one average over the square, but for rounding: `2 * side` values per pixel instead of
    `side**2`.

    Args:
        values: float32.
        side: side of the square, px; odd.
        inside: average over the pixels that are in the image, instead of counting those outside as zeros.
    """
    reach, y, x = side // 2, *values.shape[-2:]
    padded = pad(values, [reach] * 4)
    rows = padded[..., :y, :].clone()
    for start in range(1, side):
        rows += padded[..., start : start + y, :]
    total = rows[..., :x].clone()
    for start in range(1, side):
        total += rows[..., start : start + x]
    if not inside:
        return total.div_(side**2)
    down, right = (_inside_counts(n, reach).to(values.dtype) for n in (y, x))
    return total.div_(down[:, None] * right)


def _inside_counts(extent: int, reach: int) -> Tensor:
    """Return how many of the pixels up to `reach` away from each are in an image of this extent."""
    place = torch.arange(extent)
    return (place + reach).clamp_max(extent - 1) - (place - reach).clamp_min(0) + 1


def quantiles(values: Float[Tensor, " n"], shares: Sequence[float]) -> Float[Tensor, " shares"]:
    """Return quantiles, linear between values: those of `torch.quantile`, equal to the bit, without sorting the rest.

    Args:
        values: float32, at least one, of any number.
        shares: of the values that are below each quantile, 0 to 1.
    """
    last = values.numel() - 1
    ranks = torch.tensor(shares) * last
    below, above = ranks.long(), ranks.ceil().long()
    # NaN is sorted behind all numbers, and then every quantile is unknown.
    wanted = sorted({*below.tolist(), *above.tolist(), last})
    ordered = torch.from_numpy(np.partition(values.numpy(), wanted))
    if bool(ordered[last].isnan()):
        return torch.full_like(ranks, torch.nan)
    return torch.lerp(ordered[below], ordered[above], ranks - below)
