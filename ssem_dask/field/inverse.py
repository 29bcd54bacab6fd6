"""Inverse of a displacement field (C7).

Law: `compose(outer=u, inner=inverse(u)) ≈ 0` wherever `p + inverse(u)(p)` lies on the grid and `|J| > 0`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.compose import compose
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known


def inverse(field: Float[Tensor, "2 y x"], *, spacing: float, iterations: int = 20) -> Float[Tensor, "2 y x"]:
    """Field `v` with `v(p) + u(p + v(p)) = 0`, by the fixed point `v ← -u(p + v)`.

    Converges where u's gradient is below 1 (Chen et al. 2008, doi:10.1118/1.2816107); check `inverse_residual`.

    Args:
        field: u, `(2, y, x)`, mip-0 px; NaN is unknown and stays unknown where v points to it.
        spacing: mip-0 px between nodes.
        iterations: fixed-point steps.
    """
    grid = Grid((field.shape[-2], field.shape[-1]), spacing)
    positions = grid.positions(field.device)
    guess = torch.zeros_like(field)
    for _ in range(iterations):
        step = -sample_known(field, grid=grid, positions=positions + torch.nan_to_num(guess))
        if torch.equal(torch.nan_to_num(step), torch.nan_to_num(guess)):
            return step
        guess = step
    return guess


def inverse_residual(field: Tensor, *, inverse_field: Tensor, spacing: float) -> Tensor:
    """Length `(y, x)` in px of what is left of `compose(outer=field, inner=inverse_field)`."""
    left: Tensor = torch.linalg.vector_norm(compose(outer=field, inner=inverse_field, spacing=spacing), dim=0)
    return left
