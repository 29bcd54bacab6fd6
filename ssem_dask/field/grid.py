"""Where the values of a field or an image lie (C3).

Node (i, j) of a grid lies at `origin + ((i, j) + 1/2) * spacing`, in mip-0 px. An image at mip m is a grid of spacing
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
    """Number of nodes along an axis of `extent` mip-0 px."""
    return ceil_div(extent, spacing)


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid of nodes."""

    shape: ShapeYX
    """Nodes (y, x)."""
    spacing: float
    """mip-0 px between nodes."""
    origin: PointYX = (0.0, 0.0)
    """Position (y, x), mip-0 px, of the outer corner of node (0, 0)'s cell."""

    @classmethod
    def of_section(cls, shape_mip0: ShapeYX, *, spacing: int) -> "Grid":
        """The grid of a field that covers a whole section."""
        return cls((node_count(shape_mip0[0], spacing=spacing), node_count(shape_mip0[1], spacing=spacing)), spacing)

    @classmethod
    def of_box(cls, box: Box) -> "Grid":
        """The grid of the pixels of a box at its mip."""
        scale = float(2**box.mip)
        return cls(box.shape_yx, scale, (box.start[1] * scale, box.start[2] * scale))

    def relative_to(self, point: PointYX) -> "Grid":
        """The same grid seen from `point`: keeps positions small, so that float32 keeps its precision (C9)."""
        return Grid(self.shape, self.spacing, (self.origin[0] - point[0], self.origin[1] - point[1]))

    def positions(self, device: torch.device | str = "cpu") -> Float[Tensor, "2 y x"]:
        """Positions `(2, y, x)` of the nodes, mip-0 px."""
        axes = [
            origin + (torch.arange(n, dtype=torch.float32, device=device) + 0.5) * self.spacing
            for n, origin in zip(self.shape, self.origin, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def contains(self, positions: Float[Tensor, "2 *points"]) -> Bool[Tensor, "*points"]:
        """Whether each of `positions` `(2, …)` lies in the area that the grid's cells cover; False for NaN."""
        return self.holds(self.index(positions))

    def holds(self, index: Float[Tensor, "2 *points"]) -> Bool[Tensor, "*points"]:
        """The same for fractional node indices `(2, …)`."""
        inside = (index >= -0.5) & (index <= pair_like(self.shape, index) - 0.5)
        return inside[0] & inside[1]

    def index(self, positions: Float[Tensor, "2 *points"]) -> Float[Tensor, "2 *points"]:
        """Positions as fractional node indices `(2, …)`: node i has index i."""
        return (positions - pair_like(self.origin, positions)).div_(self.spacing).sub_(0.5)


def pair_like(values: tuple[float, float], positions: Real[Tensor, "2 *points"]) -> Real[Tensor, "2 *ones"]:
    """Two numbers `(2, 1, …)` that can be added to, or compared with, `positions` `(2, …)`; not to be changed.

    They are kept, since to bring a new one to a GPU takes as long as to compute with it.
    """
    return _pair(values, positions.dtype, positions.device).reshape(2, *[1] * (positions.ndim - 1))


@lru_cache(maxsize=1024)
def _pair(values: tuple[float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor of that mode could not be used outside it
        return torch.tensor(values, dtype=dtype, device=device)
