"""Smoothing fields on their nodes, and filling what is unknown.

Laws: both reproduce constants; smoothing with sigma 0, and filling where nothing is unknown, change nothing.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv1d, interpolate

RELAXATIONS = 32
"""Averaging passes that round off the blocky first guess of a filled hole."""


def gaussian_blur(values: Tensor, *, sigma: float) -> Tensor:
    """Gaussian mean over the nodes that exist.

    Args:
        values: `(…, y, x)`, no NaN.
        sigma: nodes; may be larger than the grid.
    """
    if sigma <= 0:
        return values
    once = _blur_last_axis(values, sigma=sigma)
    return _blur_last_axis(once.transpose(-1, -2), sigma=sigma).transpose(-1, -2)


def _blur_last_axis(values: Tensor, *, sigma: float) -> Tensor:
    """Normalised Gaussian mean along the last axis, cut at 4 sigma."""
    n = values.shape[-1]
    reach = min(math.ceil(4 * sigma), n - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2).to(values)[None, None]
    total = conv1d(values.reshape(-1, 1, n), kernel, padding=reach)
    weight = conv1d(torch.ones_like(values[..., :1, :]).reshape(-1, 1, n)[:1], kernel, padding=reach)
    return (total / weight).reshape(values.shape)


def fill_unknown(field: Tensor, *, trust: Tensor | None = None) -> Tensor:
    """Fill unknown (NaN) nodes smoothly from the nearest known ones; known nodes keep their values.

    Coarser and coarser means of what is known are handed down into the holes (push–pull, Gortler et al. 1996,
    doi:10.1145/237170.237200) and then relaxed.

    Args:
        field: `(c, y, x)`, or `(n, c, y, x)`, each filled by itself.
        trust: `(y, x)` or `(n, y, x)`, 0 to 1: which share of a known node's value is kept, the rest comes from around
            it. What is filled changes continuously with it, also where a node becomes unknown. None: 1.

    Returns:
        The same shape without NaN; 0 where nothing at all is known.
    """
    if field.ndim == 3:
        return fill_unknown(field[None], trust=None if trust is None else trust[None])[0]
    known = torch.isfinite(field).all(dim=1, keepdim=True)
    weight = known.to(field.dtype) if trust is None else torch.where(known, trust[:, None], 0.0).to(field.dtype)
    if bool((weight >= 1).all()):
        return field
    values = torch.where(known, field, torch.zeros_like(field))
    filled = _push_pull(values, weight)
    nodes = _sums_around(torch.ones_like(weight[:1]))
    for _ in range(RELAXATIONS):
        filled = torch.lerp(_sums_around(filled).div_(nodes), values, weight)
    return filled


def _sums_around(values: Tensor) -> Tensor:
    """Sums of values `(n, c, y, x)` over each node and its neighbours, as far as there are any."""
    if values.device.type != "cpu":
        return avg_pool2d(values, 3, stride=1, padding=1, divisor_override=1)
    # On a CPU an axis after the other takes an eighth of that time.
    for axis in (-1, -2):
        n, once = values.shape[axis] - 1, values
        values = once.clone()
        values.narrow(axis, 0, n).add_(once.narrow(axis, 1, n))
        values.narrow(axis, 1, n).add_(once.narrow(axis, 0, n))
    return values


def _push_pull(values: Tensor, weight: Tensor) -> Tensor:
    """`weight` `(n, 1, y, x)` times `values` `(n, c, y, x)`, the rest from coarser means; 0 without any weight."""
    if bool((weight >= 1).all()):
        return values
    if max(values.shape[-2:]) == 1:
        return torch.where(weight > 0, values, torch.zeros_like(values))
    sums = avg_pool2d(torch.cat([values * weight, weight], dim=1), 2, ceil_mode=True, divisor_override=1)
    total = sums[:, -1:]
    mean = sums[:, :-1] / total.clamp(min=1e-12)
    # Several nodes of little trust are together worth as much as one that is fully trusted.
    coarse = _push_pull(mean, total.clamp(max=1.0))
    size = (2 * coarse.shape[-2], 2 * coarse.shape[-1])
    fine = interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.lerp(fine[..., : values.shape[-2], : values.shape[-1]], values, weight)
