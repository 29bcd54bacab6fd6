"""Inverse of a displacement field (C7).

Law: `compose(outer=u, inner=inverse(u)) ≈ 0` wherever `p + inverse(u)(p)` is on the grid and `|J| > 0`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known


def inverse(field: Float[Tensor, "2 y x"], *, spacing: float, iterations: int = 20) -> Float[Tensor, "2 y x"]:
    """Find the field `v` with `v(p) + u(p + v(p)) = 0`, by the fixed point `v ← -u(p + v)`.

    It converges where u's gradient is below 1 (Chen et al. 2008, doi:10.1118/1.2816107).

    Args:
        field: u, mip-0 px; NaN is unknown and stays unknown where v points to it.
        spacing: mip-0 px between nodes.
        iterations: largest number of fixed-point steps; it ends earlier if a step changes nothing.
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
