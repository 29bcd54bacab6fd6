"""Cuts of the smoothness: second differences of nodes with a tear between them.

Tissue jumps across a fold or a crack, so a field that is smooth across it is wrong on both sides. An edge between two
neighbouring nodes is torn if it meets a tear. A second difference has almost no weight if one of its edges is torn: a
trace is left, so that tissue that a tear cuts off altogether still follows its surroundings.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.regularisation import CurvatureWeights

_TORN_WEIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class Tears:
    """Tears of a batch of pairs, in the frame of the fixed section."""

    mask: Float[Tensor, "n h w"]
    """float32, 1 in a tear of either section."""
    grid: Grid


def curvature_weights(tears: Tears, *, nodes: Grid) -> CurvatureWeights:
    """Compute the weights of the second differences on `nodes`."""
    y, x = (_torn_edges(tears, nodes=nodes, axis=axis) for axis in (0, 1))
    cells = y[..., 1:] | y[..., :-1] | x[..., 1:, :] | x[..., :-1, :]
    # A second difference spans two edges, the mixed one four.
    yy, xx, yx = (
        torch.where(torn, _TORN_WEIGHT, 1.0)[:, None]
        for torn in (y[:, 1:] | y[:, :-1], x[..., 1:] | x[..., :-1], cells)
    )
    return CurvatureWeights(yy, xx, yx)


def _torn_edges(tears: Tears, *, nodes: Grid, axis: int) -> Bool[Tensor, "n edges_y edges_x"]:
    """Check whether a tear is between each node and the next along an axis: one row or one column less than nodes."""
    positions = nodes.positions(tears.mask.device)
    positions = positions.narrow(axis + 1, 0, nodes.shape[axis] - 1)
    steps = ceil_div(round(nodes.spacing), round(tears.grid.spacing))
    torn = torch.zeros(len(tears.mask), *positions.shape[1:], dtype=torch.bool, device=tears.mask.device)
    # Sampled at least once per feature px, so that no tear is missed.
    for step in range(steps + 1):
        on_edge = positions.clone()
        on_edge[axis] += nodes.spacing * step / steps
        mask = sample_batch(tears.mask[:, None], grid=tears.grid, positions=on_edge.expand(len(torn), -1, -1, -1))
        torn |= mask[:, 0] >= 0.5
    return torn
