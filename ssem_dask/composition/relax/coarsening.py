"""Restriction of fields to fewer nodes, prolongation back, and the high frequencies that this loses.

A section of 100,000 px has thousands of nodes along a side; a solve that holds whole planes of them for a hundred
sections fits no machine. Its statistics belong to spatial frequencies, so it can be split by frequency: low frequencies
are solved for on restricted grids, whole planes at once; high frequencies in tiles of all nodes, with a halo. With
`restrict` the means over blocks of nodes and `prolong` their smooth continuation, T = prolong(restrict(T)) + rest, and
the solve is linear in T. The rest has short wavelengths, so the influence of a tile's border fades quickly.

Restriction and prolongation are the terms of multigrid (Briggs, Henson & McCormick, A Multigrid Tutorial, 2000, §3).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import ShapeYX

MIN_KNOWN_SHARE = 0.25
"""Share of a block's nodes that must be known for its mean to be known."""
_MARGIN_BLOCKS = 4
"""Blocks by which values are extended beyond the border before they are interpolated."""
HALO_BLOCKS = 3
"""Halo of a tile, in blocks: wavelengths below two blocks have faded over that distance."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Nodes that are solved for together."""

    core: tuple[slice, slice]
    """Nodes (y, x) whose results are kept."""
    read: tuple[slice, slice]
    """Nodes that are read: the core with its halo. All tiles read the same extent, so all have the same frequencies."""

    @property
    def core_in_read(self) -> tuple[slice, slice]:
        """The core, counted from the first node that is read."""
        y, x = (slice(c.start - r.start, c.stop - r.start) for c, r in zip(self.core, self.read, strict=True))
        return y, x

    def read_grid(self, whole: Grid) -> Grid:
        """Return the grid of the nodes that are read, out of the section's grid."""
        y, x = self.read
        origin = whole.origin[0] + y.start * whole.spacing, whole.origin[1] + x.start * whole.spacing
        return Grid((y.stop - y.start, x.stop - x.start), whole.spacing, origin)


def restriction_factor(shape: ShapeYX, *, max_nodes: int) -> int:
    """Return the nodes per side of a block, so that planes have at most `max_nodes`² blocks."""
    return ceil_div(max(shape), max_nodes)


def restricted_grid(grid: Grid, *, factor: int) -> Grid:
    """Return the grid of the blocks."""
    shape = ceil_div(grid.shape[0], factor), ceil_div(grid.shape[1], factor)
    return Grid(shape, grid.spacing * factor, grid.origin)


def cut_tiles(shape: ShapeYX, *, core: int, factor: int) -> list[Tile]:
    """Return tiles of up to `core`² nodes with their halos, y slowest; each starts at a whole block.

    Args:
        shape: nodes (y, x).
        core: nodes per side, a multiple of `factor`.
        factor: nodes per side of a block.
    """
    halo = HALO_BLOCKS * factor
    axes = []
    # The two axes are cut independently.
    for n in shape:
        # A tile never reads more than the section has, and always the same number of nodes.
        extent = min(core + 2 * halo, n)
        spans = []
        for start in range(0, n, core):
            # Tiles at the border read farther inward instead, from a whole block on as all others do.
            first = max(0, min(start - halo, ceil_div(n - extent, factor) * factor))
            spans.append((slice(start, min(start + core, n)), slice(first, min(first + extent, n))))
        axes.append(spans)
    return [Tile((cy, cx), (ry, rx)) for cy, ry in axes[0] for cx, rx in axes[1]]


def restrict(
    values: Float[Tensor, "*n c y x"], weights: Float[Tensor, "*n y x"], *, factor: int
) -> tuple[Float[Tensor, "*n c by bx"], Float[Tensor, "*n by bx"]]:
    """Return weighted means over blocks of nodes, and the mean weight of each block.

    Args:
        values: on the nodes; arbitrary where the weight is 0.
        weights: 0 or more; 0 where unknown.
        factor: nodes per side of a block.

    Returns:
        The means, NaN if less than a quarter of the block is known, and the mean weights, then 0.
    """
    weight = weights.unsqueeze(-3).to(values.dtype)
    # NaN times 0 is NaN: unknown values are replaced before they are weighted.
    total = _block_sums(torch.where(weight > 0, values, torch.zeros_like(values)) * weight, factor)
    weight_sum, known = _block_sums(weight, factor), _block_sums((weight > 0).to(values.dtype), factor)
    # Blocks at the far border hold fewer nodes.
    nodes = _block_sums(torch.ones_like(weight[..., :1, :, :]), factor)
    # A mean of a few nodes at the edge of a hole would stand for a place that is not in its block's centre.
    enough = known >= MIN_KNOWN_SHARE * nodes
    mean = torch.where(enough, total / weight_sum.clamp(min=1e-30), torch.full_like(total, torch.nan))
    return mean, torch.where(enough, weight_sum / nodes, torch.zeros_like(weight_sum)).squeeze(-3)


def prolong(values: Float[Tensor, "*n by bx"], *, blocks: Grid, grid: Grid) -> Float[Tensor, "*n y x"]:
    """Return values of blocks, continued smoothly to the nodes of `grid`.

    A cubic B-spline; beyond the border values are extended by odd reflection, so that a slope stays a slope.

    Args:
        values: of the blocks, no NaN.
        blocks: their grid, see `restricted_grid`.
        grid: nodes, such as those of a tile.
    """
    # Separable: one matrix along each axis.
    along_y, along_x = (_prolongation_matrix(blocks, grid, axis=axis).to(values) for axis in (0, 1))
    flat = values.reshape(-1, *blocks.shape)
    out = flat.new_empty(len(flat), *grid.shape)
    for batch in plane_batches(torch.arange(len(flat), device=flat.device), like=out):
        out[batch] = along_y @ flat[batch] @ along_x.mT
    return out.reshape(*values.shape[:-2], *grid.shape)


def _prolongation_matrix(blocks: Grid, grid: Grid, *, axis: int) -> Tensor:
    """Return the matrix `(nodes, blocks)` float64 of the prolongation along one axis.

    Splines on a lattice are separable; two products with matrices are far less work than 16 terms per node.
    """
    n, spacing, origin = blocks.shape[axis], blocks.spacing, blocks.origin[axis]
    margin = min(_MARGIN_BLOCKS, n - 1)
    # The columns are the responses to unit vectors, extended beyond the border.
    units = _reflect_odd(torch.eye(n, dtype=torch.float64)[:, :, None], margin, margin, axis=-2)
    extended = Grid((n + 2 * margin, 1), spacing, (origin - margin * spacing, 0.0))
    nodes = Grid((grid.shape[axis], 1), grid.spacing, (grid.origin[axis], 0.0))
    return sample(units, grid=extended, positions=nodes.positions().double(), kind="bspline")[:, :, 0].mT


def high_frequencies(fields: Float[Tensor, "*n y x"], *, grid: Grid, factor: int) -> Float[Tensor, "*n y x"]:
    """Return what restriction loses of fields without NaN: fields - prolong(restrict(fields))."""
    height, width = grid.shape
    # Blocks that the border cuts are filled up, so that all means belong to the centres of their blocks.
    padded = _reflect_odd(_reflect_odd(fields, 0, -height % factor, axis=-2), 0, -width % factor, axis=-1)
    mean = _block_sums(padded, factor) / factor**2
    return fields - prolong(mean, blocks=restricted_grid(grid, factor=factor), grid=grid).to(fields.dtype)


def _reflect_odd(values: Tensor, before: int, after: int, *, axis: int) -> Tensor:
    """Extend values beyond both ends of an axis by odd reflection about the value at the end."""
    n = values.shape[axis]
    # Odd reflection keeps the slope at the border; even reflection would flatten it.
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, n - 1, 1)
    parts = [values]
    if before:
        parts.insert(0, 2 * first - values.narrow(axis, 1, before).flip(axis))
    if after:
        parts.append(2 * last - values.narrow(axis, n - 1 - after, after).flip(axis))
    return torch.cat(parts, dim=axis)


def _block_sums(values: Tensor, factor: int) -> Tensor:
    """Return sums over blocks of `factor`² nodes; beyond the border there are zeros."""
    height, width = values.shape[-2:]
    padded = torch.nn.functional.pad(values, (0, -width % factor, 0, -height % factor))
    blocks = padded.reshape(*values.shape[:-2], padded.shape[-2] // factor, factor, padded.shape[-1] // factor, factor)
    return blocks.sum(dim=(-3, -1))
