"""Inverse of a displacement field (C7).

Laws: `compose(outer=u, inner=inverse(u)) ≈ 0` wherever `p + inverse(u)(p)` is on the grid and `|J| > 0`;
`preimages(u, targets=q) + u(preimages(u, targets=q)) == q`, or NaN.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known

_NEWTON_STEPS = 50
_TOLERANCE_PX = 1e-3


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


def preimages(
    field: Float[Tensor, "2 y x"], *, grid: Grid, targets: Float[Tensor, "2 *points"]
) -> Float[Tensor, "2 *points"]:
    """Find the positions p with `p + field(p) = targets`, to 0.001 px.

    The field holds the section's whole affine map, whose gradient may be too large for a plain fixed-point iteration.
    So each step is multiplied by the inverse of the field's mean Jacobian (a chord Newton method).

    Args:
        field: pull field on `grid`, mip-0 px; NaN is unknown.
        grid: grid of the field.
        targets: float64 positions in the source, mip-0 px.

    Returns:
        float64 aligned positions; NaN where the field is unknown or the iteration does not converge.
    """
    nodes = grid.positions()
    known = torch.isfinite(field).all(dim=0)
    if int(known.sum()) < 3:  # too few nodes for an affine map
        return torch.full_like(targets, torch.nan)
    design = torch.stack([nodes[0][known], nodes[1][known], torch.ones_like(nodes[0][known])], dim=1).double()
    jacobian = torch.linalg.lstsq(design, (nodes + field)[:, known].T.double()).solution[:2].T
    # Rounded and applied without BLAS, whose last bits depend on where memory is: a task run twice writes the same.
    rows = torch.linalg.inv(jacobian).round(decimals=6).tolist()
    flat = targets.reshape(2, -1)

    def displacement(positions: Tensor) -> Tensor:
        return sample_known(field, grid=grid, positions=positions.float()).double()

    aligned = flat.clone()
    for _ in range(_NEWTON_STEPS):
        residual = flat - (aligned + displacement(aligned))
        aligned = aligned + torch.stack([residual[0] * a + residual[1] * b for a, b in rows])
        # A NaN compares as small, so that a point outside the known field does not keep the others iterating.
        if not bool((residual.abs() > _TOLERANCE_PX).any()):
            break
    residual = flat - (aligned + displacement(aligned))
    converged = (residual.abs() <= 10 * _TOLERANCE_PX).all(dim=0)
    return torch.where(converged, aligned, torch.full_like(aligned, torch.nan)).reshape(targets.shape)
