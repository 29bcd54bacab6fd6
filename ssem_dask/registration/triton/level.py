"""One step of the solver (a pyramid level, its nodes, some iterations) in buffers at fixed addresses."""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.normal_equations import DAMPING
from ssem_dask.registration.gauss_newton.regularisation import CosineBasis
from ssem_dask.registration.triton.kernels.conjugate_gradients import advance, apply_system, precondition, right_side
from ssem_dask.registration.triton.kernels.equations import cell_sums, node_sums
from ssem_dask.registration.triton.kernels.warp_kernels import mean_error, warp_features
from ssem_dask.registration.vector_map import axis_index

_PIXELS = 1024  # px per program of the warp
_NODES = 256  # nodes per program
_CELLS = {4: 32, 8: 16}  # cells per program, by the number of px along a cell
_SUMS = 1024
_LEAST_SUMMED = 256  # least number of partial sums per program: one number for most levels compiles once


def fits(*, nodes: Grid, pixels: Grid) -> bool:
    """Check whether the kernels can run these nodes over these px: cells must be 4 or 8 px wide."""
    ratio = nodes.spacing / pixels.spacing
    return ratio in _CELLS and min(nodes.shape) >= 2 and min(pixels.shape) >= 2


@dataclass(frozen=True, slots=True)
class Sections:
    """Features of a window's sections at one level, in one buffer for all windows of a size."""

    features: Tensor
    """`(z, c, h, w)`."""
    valid: Tensor
    """`(z, h, w)` of the same dtype, 0 or 1."""
    grid: Grid


class LevelStep:
    """Gauss-Newton iterations of a batch of pairs at one level.

    Args:
        sections: features of the level.
        nodes: grid of the displacements.
        pairs: `(n, 2)` int32, (fixed, moving); may be overwritten between calls.
        relative: `(1,)`: (L / S)⁴; may be overwritten between calls.
        cutoff: rc.
        conjugate_gradients: iterations per Gauss-Newton iteration.
        largest_step: px of the level.
    """

    def __init__(
        self,
        sections: Sections,
        *,
        nodes: Grid,
        pairs: Tensor,
        relative: Tensor,
        cutoff: float,
        conjugate_gradients: int,
        largest_step: float,
    ) -> None:
        device, n = pairs.device, len(pairs)
        ny, nx = nodes.shape
        h, w = sections.grid.shape
        channels = sections.features.shape[1]
        self.sections, self.nodes = sections, nodes
        self.u = torch.zeros(n, 2, ny, nx, device=device)
        """Displacements, px of the level."""
        self.smooth = torch.zeros_like(self.u)
        """Displacements that `u` is smooth relative to."""
        self._pairs, self._relative = pairs, relative
        self._cutoff, self._iterations, self._largest = cutoff, conjugate_gradients, largest_step
        self._ratio = int(nodes.spacing / sections.grid.spacing)
        self._first = [float(axis_index(sections.grid, nodes, axis)[0]) for axis in (0, 1)]
        self._offset = [math.ceil(-first * self._ratio - 1e-6) for first in self._first]
        self._cells = [ceil_div(extent - off, self._ratio) for extent, off in zip((h, w), self._offset, strict=True)]
        self._programs = triton.cdiv(ny * nx, _NODES)
        pixel_programs = triton.cdiv(h * w, _PIXELS)
        self._warped = torch.empty(n, channels, h, w, device=device, dtype=sections.features.dtype)
        self._seen = torch.empty(n, h, w, device=device, dtype=torch.int8)
        self._partial = torch.empty(n, pixel_programs, 2, device=device)
        self._moments = torch.empty(n, 2, device=device)
        self._sums = torch.empty(n, 20, *self._cells, device=device)
        self._equations = torch.empty(n, 5, ny, nx, device=device)
        self._traces = torch.empty(n, self._programs, 2, device=device)
        self._scales = torch.empty(n, 4, device=device)
        self._products = [torch.empty(n, self._programs, device=device) for _ in range(2)]
        self._energy = torch.empty(n, self._programs, device=device)
        self._directions = [torch.zeros_like(self.u) for _ in range(2)]
        self._left, self._step, self._applied = (torch.empty_like(self.u) for _ in range(3))
        self._half, self._modes, self._scaled = (torch.empty_like(self.u) for _ in range(3))
        basis = CosineBasis.of(nodes.shape, device=device)
        self._spectrum = basis.spectrum.contiguous()
        self._y, self._x = basis.y.contiguous(), basis.x.contiguous()
        self._y_t, self._x_t = basis.y.T.contiguous(), basis.x.T.contiguous()

    def run(self, scales: Tensor) -> None:
        """Update `u`; only launches kernels, so that it can be recorded.

        Args:
            scales: `(iterations, 2)`: ē and h̄ of each iteration; 0: each pair's own.
        """
        for scale in scales:
            self._assemble(scale)
            self._solve(scale)

    def _assemble(self, scale: Tensor) -> None:
        features, valid, (h, w) = self.sections.features, self.sections.valid, self.sections.grid.shape
        (n, channels), (ny, nx) = self._warped.shape[:2], self.nodes.shape
        blocks = self._partial.shape[1]
        warp_features[blocks, n](
            features,
            valid,
            self._pairs,
            self.u,
            self._warped,
            self._seen,
            self._partial,
            h,
            w,
            ny,
            nx,
            *self._first,
            1.0 / self._ratio,
            channels=channels,
            block=_PIXELS,
        )
        mean_error[n,](self._partial, self._moments, scale, blocks, block=_SUMS)
        cells = _CELLS[self._ratio]
        cell_sums[triton.cdiv(self._cells[1], cells), self._cells[0], n](
            features,
            self._pairs,
            self._warped,
            self._seen,
            self._moments,
            self._sums,
            self._cutoff,
            h,
            w,
            *self._offset,
            *self._first,
            channels=channels,
            ratio=self._ratio,
            cells=cells,
        )
        node_sums[self._programs, n](self._sums, self._equations, self._traces, ny, nx, *self._cells, block=_NODES)

    def _solve(self, scale: Tensor) -> None:
        n, (ny, nx), programs = len(self.u), self.nodes.shape, self._programs
        grid = (programs, n)
        reduce = max(_LEAST_SUMMED, triton.next_power_of_2(programs))
        right_side[grid](
            self._equations,
            self._traces,
            self._moments,
            scale,
            self.u,
            self.smooth,
            self._relative,
            self._left,
            self._scales,
            ny,
            nx,
            float(self._ratio**2),
            DAMPING,
            programs,
            block=_NODES,
            reduce=reduce,
        )
        for i in range(self._iterations):
            product, last_product = self._products[i % 2], self._products[(i + 1) % 2]
            direction, previous = self._directions[i % 2], self._directions[(i + 1) % 2]
            self._transform(self._left, self._x_t, self._y, into=self._modes)
            precondition[grid](self._modes, self._spectrum, self._scales, product, ny, nx, block=_NODES)
            self._transform(self._modes, self._x, self._y_t, into=self._scaled)
            apply_system[grid](
                self._equations,
                self._scales,
                self._scaled,
                previous,
                direction,
                self._applied,
                product,
                last_product,
                self._energy,
                ny,
                nx,
                programs,
                first=i == 0,
                block=_NODES,
                reduce=reduce,
            )
            advance[grid](
                self._step,
                self._left,
                direction,
                self._applied,
                product,
                self._energy,
                self.u,
                ny,
                nx,
                programs,
                self._largest,
                first=i == 0,
                last=i == self._iterations - 1,
                block=_NODES,
                reduce=reduce,
            )

    def _transform(self, values: Tensor, x: Tensor, y: Tensor, *, into: Tensor) -> None:
        """Compute y @ values @ x, for every pair and axis."""
        ny, nx = self.nodes.shape
        planes = 2 * len(values)
        torch.mm(values.view(planes * ny, nx), x, out=self._half.view(planes * ny, nx))
        torch.bmm(y.expand(planes, ny, ny), self._half.view(planes, ny, nx), out=into.view(planes, ny, nx))
