"""Means over a square around each pixel, and quantiles of many values: what torch does, at a fraction of the time."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

_CACHED_VALUES = 1 << 16


def square_mean(values: Float[Tensor, "*n y x"], side: int, *, inside: bool = False) -> Float[Tensor, "*n y x"]:
    """Average over a square around each pixel, with zeros outside the image.

    Args:
        values: float32.
        side: side of the square, px; odd.
        inside: average over the pixels that are in the image, instead of counting those outside as zeros.
    """
    reach, y, x = side // 2, *values.shape[-2:]
    total = square_sums(pad(values, [reach] * 4), side)
    if not inside:
        return total.div_(side**2)
    down, right = (_inside_counts(n, reach).to(values.dtype) for n in (y, x))
    return total.div_(down[:, None] * right)


def square_sums(values: Float[Tensor, "*n y x"], side: int) -> Float[Tensor, "*n dy dx"]:
    """Return the sums over all squares of a side within an image; the result is new memory.

    Sums of 2, 4, 8 … px are added along y and then along x: few additions, and rounding stays that of a short sum.

    Args:
        values: of floating point, at least `side` px along each axis.
        side: side of the square, px.
    """
    rows = values.shape[-2] - side + 1
    total = values.new_empty(*values.shape[:-2], rows, values.shape[-1] - side + 1)
    # Some rows at a time stay in the cache of a core.
    step = max(side, _CACHED_VALUES // max(1, values.shape[-1] * values[..., 0, 0].numel()))
    for start in range(0, rows, step):
        band = values[..., start : min(start + step, rows) + side - 1, :]
        total[..., start : start + step, :] = _sums_along(_sums_along(band, side, dim=-2), side, dim=-1)
    return total


def _sums_along(values: Tensor, side: int, *, dim: int) -> Tensor:
    """Return the sums of `side` values that follow one another."""
    count, total = values.shape[dim] - side + 1, None
    width, done = 1, 0
    while True:
        if side & width:
            part = values.narrow(dim, done, count)
            total = part if total is None else total + part
            done += width
        if width * 2 > side:
            assert total is not None
            return total
        extent = values.shape[dim] - width
        values = values.narrow(dim, 0, extent) + values.narrow(dim, width, extent)
        width *= 2


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


def lower_median(values: Float[Tensor, " n"]) -> float:
    """Return what `torch.median` does for finite values, at least one; in less than half of the time."""
    middle = (values.numel() - 1) // 2
    return float(np.partition(values.numpy(), middle)[middle])
