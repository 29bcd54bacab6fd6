"""Local deformation of the tissue by a field: Jacobian, folds, strain."""

import torch
from jaxtyping import Float
from torch import Tensor


def jacobian(field: Float[Tensor, "*n 2 y x"], *, spacing: float) -> Float[Tensor, "*n 2 2 y-1 x-1"]:
    """Compute the Jacobian matrix of p ↦ p + u(p) by forward differences: [i, j] = ∂(map i)/∂(axis j)."""
    dy = (field[..., 1:, :-1] - field[..., :-1, :-1]) / spacing
    dx = (field[..., :-1, 1:] - field[..., :-1, :-1]) / spacing
    gradient = torch.stack([dy, dx], dim=-3)
    return gradient + torch.eye(2, dtype=field.dtype, device=field.device)[:, :, None, None]


def jacobian_determinant(field: Float[Tensor, "*n 2 y x"], *, spacing: float) -> Float[Tensor, "*n y-1 x-1"]:
    """Compute the local area change |J|: 1 is unchanged, at most 0 is folded; NaN is unknown."""
    j = jacobian(field, spacing=spacing)
    return j[..., 0, 0, :, :] * j[..., 1, 1, :, :] - j[..., 0, 1, :, :] * j[..., 1, 0, :, :]


def without_mirroring(field: Float[Tensor, "*n 2 y x"], *, spacing: float) -> Float[Tensor, "*n 2 y x"]:
    """Return the field of a map whose result is mirrored along y: of a mirrored section, a map without mirroring."""
    y = spacing * torch.arange(field.shape[-2], dtype=field.dtype, device=field.device)[:, None]
    return torch.stack([-2 * y - field[..., 0, :, :], field[..., 1, :, :]], dim=-3)


def fold_rate(field: Float[Tensor, "*n 2 y x"], *, spacing: float) -> float:
    """Compute the share of the known cells with |J| <= 0; NaN if none is known."""
    determinant = jacobian_determinant(field, spacing=spacing)
    known = determinant[torch.isfinite(determinant)]
    return float((known <= 0).double().mean()) if known.numel() else float("nan")


def strain(field: Float[Tensor, "2 y x"], *, spacing: float) -> Float[Tensor, "y-1 x-1"]:
    """Compute the largest principal strain |σ - 1|, σ the singular values of the Jacobian; NaN is unknown."""
    j = jacobian(field, spacing=spacing).permute(2, 3, 0, 1)
    known = torch.isfinite(j).all(dim=(2, 3)) if j.numel() else torch.zeros(j.shape[:2], dtype=torch.bool)
    # Closed form of the 2x2 singular values: half-sum and half-difference of two vector lengths.
    a, b, c, d = j[..., 0, 0], j[..., 0, 1], j[..., 1, 0], j[..., 1, 1]
    mean, spread = torch.hypot(a + d, c - b) / 2, torch.hypot(a - d, c + b) / 2
    largest = torch.maximum((mean + spread - 1).abs(), (mean - spread - 1).abs())
    return torch.where(known, largest, torch.full_like(largest, torch.nan))
