"""Grids: positions of the values of a field or an image (C3).

Node (i, j) of a grid is at `origin + ((i, j) + 1/2) * spacing`, in mip-0 px. An image at mip m is a grid of spacing
2**m, so fields and images are sampled by one function. Positions are `(2, …)` tensors, (y, x), float32 (C9).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import PointYX, ShapeYX


def node_count(extent: int, *, spacing: int) -> int:
    """Return the number of nodes along an axis of `extent` mip-0 px."""
    return ceil_div(extent, spacing)


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid of nodes."""

    shape: ShapeYX
    """Number of nodes (y, x)."""
    spacing: float
    """mip-0 px between nodes."""
    origin: PointYX = (0.0, 0.0)
    """Position (y, x), mip-0 px, of the outer corner of node (0, 0)'s cell."""

    @classmethod
    def of_section(cls, shape_mip0: ShapeYX, *, spacing: int) -> "Grid":
        """Make the grid of a field that covers a whole section."""
        return cls((node_count(shape_mip0[0], spacing=spacing), node_count(shape_mip0[1], spacing=spacing)), spacing)

    @classmethod
    def of_box(cls, box: Box) -> "Grid":
        """Make the grid of the pixels of a box at its mip."""
        scale = float(2**box.mip)
        return cls(box.shape_yx, scale, (box.start[1] * scale, box.start[2] * scale))

    def relative_to(self, point: PointYX) -> "Grid":
        """Return the same grid with `point` as the origin of positions, so that float32 keeps its precision (C9)."""
        return Grid(self.shape, self.spacing, (self.origin[0] - point[0], self.origin[1] - point[1]))

    def positions(self, device: torch.device | str = "cpu") -> Float[Tensor, "2 y x"]:
        """Compute the positions of the nodes, mip-0 px."""
        axes = [
            origin + (torch.arange(n, dtype=torch.float32, device=device) + 0.5) * self.spacing
            for n, origin in zip(self.shape, self.origin, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def contains(self, positions: Float[Tensor, "2 *points"]) -> Bool[Tensor, "*points"]:
        """Check which positions are in the area that the grid's cells cover; False for NaN."""
        return self.contains_index(self.index(positions))

    def contains_index(self, index: Float[Tensor, "2 *points"]) -> Bool[Tensor, "*points"]:
        """Check which fractional node indices are in the area that the grid's cells cover; False for NaN."""
        inside = (index >= -0.5) & (index <= constant_like(self.shape, index) - 0.5)
        return inside[0] & inside[1]

    def index(self, positions: Float[Tensor, "2 *points"]) -> Float[Tensor, "2 *points"]:
        """Convert positions to fractional node indices: node i has index i."""
        return (positions - constant_like(self.origin, positions)).div_(self.spacing).sub_(0.5)


def constant_like(values: tuple[float, float], positions: Real[Tensor, "2 *points"]) -> Real[Tensor, "2 *ones"]:
    """Return two numbers as `(2, 1, …)`, to be added to or compared with `positions`; must not be modified.

    They are cached, since copying new ones to a GPU takes as long as computing with them.
    """
    return _constant(values, positions.dtype, positions.device).reshape(2, *[1] * (positions.ndim - 1))


@lru_cache(maxsize=1024)
def _constant(values: tuple[float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # an inference tensor could not be used outside of that mode
        return torch.tensor(values, dtype=dtype, device=device)
