"""Smoothing fields on their nodes, and filling unknown nodes.

Laws: both reproduce constants; smoothing with sigma 0, and filling where nothing is unknown, change nothing.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv1d, interpolate

RELAXATIONS = 32
"""Averaging passes that round off the blocky first guess of a filled hole."""
_CUT_SIGMAS = 4
"""Standard deviations at which the Gaussian kernel is cut off."""


def gaussian_blur(values: Float[Tensor, "*n y x"], *, sigma: float) -> Float[Tensor, "*n y x"]:
    """Return Gaussian means over the nodes that exist.

    Unlike `flat_contrast.blur`, which has zeros beyond the border and runs as one convolution, the kernel is
    renormalised at the border, and sigma may be larger than the grid.

    Args:
        values: no NaN.
        sigma: nodes.
    """
    if sigma <= 0:
        return values
    blurred = _blur_last_axis(values, sigma=sigma)
    return _blur_last_axis(blurred.transpose(-1, -2), sigma=sigma).transpose(-1, -2)


def _blur_last_axis(values: Tensor, *, sigma: float) -> Tensor:
    """Return normalised Gaussian means along the last axis."""
    n = values.shape[-1]
    reach = min(math.ceil(_CUT_SIGMAS * sigma), n - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2).to(values)[None, None]
    total = conv1d(values.reshape(-1, 1, n), kernel, padding=reach)
    # The sum of the kernel over the nodes that exist: less than the whole at the border.
    weight = conv1d(torch.ones_like(values[..., :1, :]).reshape(-1, 1, n)[:1], kernel, padding=reach)
    return (total / weight).reshape(values.shape)


def fill_unknown(
    field: Float[Tensor, "*n c y x"], *, trust: Float[Tensor, "*n y x"] | None = None
) -> Float[Tensor, "*n c y x"]:
    """Fill unknown (NaN) nodes smoothly from the nearest known ones; known nodes keep their values.

    Coarser and coarser means of known values are passed down into the holes (push-pull, Gortler et al. 1996,
    doi:10.1145/237170.237200) and then relaxed.

    Args:
        field: one field, or several, each of which is filled by itself.
        trust: 0 to 1: the share of a known node's value that is kept; the rest comes from its surroundings. The result
            changes continuously with it, also where a node becomes unknown. None: 1.

    Returns:
        The fields without NaN; 0 if nothing at all is known.
    """
    if field.ndim == 3:
        return fill_unknown(field[None], trust=None if trust is None else trust[None])[0]
    known = torch.isfinite(field).all(dim=1, keepdim=True)
    weight = known.to(field.dtype) if trust is None else torch.where(known, trust[:, None], 0.0).to(field.dtype)
    if bool((weight >= 1).all()):
        return field
    # Two steps: a blocky guess at all scales at once, then a few local passes that smooth it.
    values = torch.where(known, field, torch.zeros_like(field))
    filled = _push_pull(values, weight)
    # Jacobi iterations of Laplace's equation; trusted nodes are its boundary values.
    nodes = _sums_around(torch.ones_like(weight[:1]))
    for _ in range(RELAXATIONS):
        filled = torch.lerp(_sums_around(filled).div_(nodes), values, weight)
    return filled


def _sums_around(values: Tensor) -> Tensor:
    """Return sums of values `(n, c, y, x)` over each node and its neighbours that exist."""
    if values.device.type != "cpu":
        return avg_pool2d(values, 3, stride=1, padding=1, divisor_override=1)
    # On a CPU one axis after the other takes an eighth of that time.
    for axis in (-1, -2):
        n, before = values.shape[axis] - 1, values
        values = before.clone()
        values.narrow(axis, 0, n).add_(before.narrow(axis, 1, n))
        values.narrow(axis, 1, n).add_(before.narrow(axis, 0, n))
    return values


def _push_pull(values: Tensor, weight: Tensor) -> Tensor:
    """Return `weight` `(n, 1, y, x)` times `values` `(n, c, y, x)`, the rest from coarser means; 0 without weight."""
    # The recursion ends where nothing is left to fill, or at a single node.
    if bool((weight >= 1).all()):
        return values
    if max(values.shape[-2:]) == 1:
        return torch.where(weight > 0, values, torch.zeros_like(values))
    sums = avg_pool2d(torch.cat([values * weight, weight], dim=1), 2, ceil_mode=True, divisor_override=1)
    total = sums[:, -1:]
    mean = sums[:, :-1] / total.clamp(min=1e-12)
    # Several nodes of little trust together count as much as one that is fully trusted.
    coarse = _push_pull(mean, total.clamp(max=1.0))
    size = (2 * coarse.shape[-2], 2 * coarse.shape[-1])
    fine = interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.lerp(fine[..., : values.shape[-2], : values.shape[-1]], values, weight)
