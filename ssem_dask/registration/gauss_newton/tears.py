"""Where smoothness is cut: second differences of nodes with a tear between them.

Tissue jumps across a fold or a crack, so a field that is smooth across it is wrong on both sides. An edge between two
neighbouring nodes is torn if it meets a tear; a second difference counts next to nothing if one of its edges is torn.
It keeps a trace, so that tissue that a tear cuts off altogether still follows what surrounds it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.regularisation import CurvatureWeights

_TRACE = 1e-3


@dataclass(frozen=True, slots=True)
class Tears:
    """Tears of a batch of pairs, as the fixed section sees them."""

    mask: Tensor
    """`(n, h, w)` float32, 1 in a tear of either section."""
    grid: Grid


def curvature_weights(tears: Tears, *, nodes: Grid) -> CurvatureWeights:
    """The weights of the second differences on `nodes`."""
    y, x = (_torn_edges(tears, nodes=nodes, axis=axis) for axis in (0, 1))
    cells = y[..., 1:] | y[..., :-1] | x[..., 1:, :] | x[..., :-1, :]
    yy, xx, yx = (
        torch.where(torn, _TRACE, 1.0)[:, None] for torn in (y[:, 1:] | y[:, :-1], x[..., 1:] | x[..., :-1], cells)
    )
    return CurvatureWeights(yy, xx, yx)


def _torn_edges(tears: Tears, *, nodes: Grid, axis: int) -> Tensor:
    """Whether a tear lies between each node and the next along an axis: `(n, ny - 1, nx)` or `(n, ny, nx - 1)`."""
    positions = nodes.positions(tears.mask.device)
    positions = positions.narrow(axis + 1, 0, nodes.shape[axis] - 1)
    steps = ceil_div(round(nodes.spacing), round(tears.grid.spacing))
    torn = torch.zeros(len(tears.mask), *positions.shape[1:], dtype=torch.bool, device=tears.mask.device)
    for step in range(steps + 1):
        where = positions.clone()
        where[axis] += nodes.spacing * step / steps
        seen = sample_batch(tears.mask[:, None], grid=tears.grid, positions=where.expand(len(torn), -1, -1, -1))
        torn |= seen[:, 0] >= 0.5
    return torn
