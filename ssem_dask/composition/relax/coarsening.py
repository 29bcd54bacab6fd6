"""Fields of wide sections on fewer nodes, and what the fewer nodes cannot carry.

A section of 100,000 px has thousands of nodes along a side; a solve that holds whole planes of them for a hundred
sections fits no machine. Its statistics belong to spatial frequencies, so it can be split by frequency: long waves are
solved for on thinned nodes, whole planes at once, and what thinning loses in tiles of all nodes, with a halo. With
`thin` the means over blocks of nodes and `thicken` their smooth continuation, T = thicken(thin(T)) + rest, and the
solve is linear in T. Since the waves of the rest are short, a tile's border is soon forgotten.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import ShapeYX

LEAST_KNOWN = 0.25
"""Share of a block's nodes that must be known for its mean to be."""
_BEYOND = 4
"""Blocks that values are continued by beyond the border."""
HALO_BLOCKS = 3
"""Halo of a tile in blocks: waves shorter than two blocks have died away over that."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Nodes that are solved for together."""

    core: tuple[slice, slice]
    """Nodes (y, x) that the tile answers for."""
    read: tuple[slice, slice]
    """Nodes that it looks at; of the same extent for all tiles, so that all have the same frequencies."""

    @property
    def inner(self) -> tuple[slice, slice]:
        """The core, counted from the first node that is read."""
        y, x = (slice(c.start - r.start, c.stop - r.start) for c, r in zip(self.core, self.read, strict=True))
        return y, x

    def grid(self, whole: Grid) -> Grid:
        """The nodes that it looks at, as a grid."""
        y, x = self.read
        origin = whole.origin[0] + y.start * whole.spacing, whole.origin[1] + x.start * whole.spacing
        return Grid((y.stop - y.start, x.stop - x.start), whole.spacing, origin)


def thin_factor(shape: ShapeYX, *, plane: int) -> int:
    """Nodes per side of a block: 1 where a plane of `shape` nodes may be solved for at once."""
    return ceil_div(max(shape), plane)


def thin_grid(grid: Grid, *, factor: int) -> Grid:
    """The grid of the blocks."""
    shape = ceil_div(grid.shape[0], factor), ceil_div(grid.shape[1], factor)
    return Grid(shape, grid.spacing * factor, grid.origin)


def tiles_of(shape: ShapeYX, *, core: int, factor: int) -> list[Tile]:
    """Tiles of up to `core`² nodes with their halos, y slowest; each starts at a whole block.

    Args:
        shape: nodes (y, x).
        core: nodes per side, a multiple of `factor`.
        factor: nodes per side of a block.
    """
    halo = HALO_BLOCKS * factor
    axes = []
    for n in shape:
        reach = min(core + 2 * halo, n)
        spans = []
        for start in range(0, n, core):
            # Tiles at the border look farther inward instead, from a whole block on as all others do.
            first = max(0, min(start - halo, ceil_div(n - reach, factor) * factor))
            spans.append((slice(start, min(start + core, n)), slice(first, min(first + reach, n))))
        axes.append(spans)
    return [Tile((cy, cx), (ry, rx)) for cy, ry in axes[0] for cx, rx in axes[1]]


def thin(values: Tensor, known: Tensor, *, factor: int) -> tuple[Tensor, Tensor]:
    """Means over blocks of nodes, and the share of each block that is known.

    Args:
        values: `(…, c, y, x)`; anything where they are not known.
        known: `(…, y, x)`, weights of the nodes, 0 or more.
        factor: nodes per side of a block.

    Returns:
        `(…, c, y', x')`, NaN where less than a quarter of the block is known, and the mean of `known` `(…, y', x')`.
    """
    weight = known.unsqueeze(-3).to(values.dtype)
    total = _block_sums(torch.where(weight > 0, values, torch.zeros_like(values)) * weight, factor)
    weights, there = _block_sums(weight, factor), _block_sums((weight > 0).to(values.dtype), factor)
    nodes = _block_sums(torch.ones_like(weight[..., :1, :, :]), factor)
    enough = there >= LEAST_KNOWN * nodes
    mean = torch.where(enough, total / weights.clamp(min=1e-30), torch.full_like(total, torch.nan))
    return mean, torch.where(enough, weights / nodes, torch.zeros_like(weights)).squeeze(-3)


def thicken(values: Tensor, *, thin: Grid, grid: Grid) -> Tensor:
    """Values of the blocks `(…, y', x')`, no NaN, continued smoothly to the nodes of `grid`.

    A cubic B-spline; beyond the border values go on as they come (odd reflection), so that a slope stays a slope.
    """
    along_y, along_x = (_thickening(thin, grid, axis=axis).to(values) for axis in (0, 1))
    flat = values.reshape(-1, *thin.shape)
    out = flat.new_empty(len(flat), *grid.shape)
    for batch in plane_batches(torch.arange(len(flat), device=flat.device), like=out):
        out[batch] = along_y @ flat[batch] @ along_x.mT
    return out.reshape(*values.shape[:-2], *grid.shape)


def _thickening(thin: Grid, grid: Grid, *, axis: int) -> Tensor:
    """The matrix `(nodes, blocks)` float64 that does it along one axis.

    Splines on a lattice are taken along one axis after the other; two products with matrices are far less work than 16
    places for each node.
    """
    n, spacing, origin = thin.shape[axis], thin.spacing, thin.origin[axis]
    end = min(_BEYOND, n - 1)
    every = _odd(torch.eye(n, dtype=torch.float64)[:, :, None], end, end, axis=-2)
    wider = Grid((n + 2 * end, 1), spacing, (origin - end * spacing, 0.0))
    nodes = Grid((grid.shape[axis], 1), grid.spacing, (grid.origin[axis], 0.0))
    return sample(every, grid=wider, positions=nodes.positions().double(), kind="bspline")[:, :, 0].mT


def without_long(total: Tensor, *, grid: Grid, factor: int) -> Tensor:
    """What thinning loses of T `(K, Z, 2, y, x)`, no NaN."""
    height, width = grid.shape
    whole = _odd(_odd(total, 0, -height % factor, axis=-2), 0, -width % factor, axis=-1)
    mean = _block_sums(whole, factor) / factor**2
    return total - thicken(mean, thin=thin_grid(grid, factor=factor), grid=grid).to(total.dtype)


def _odd(values: Tensor, before: int, after: int, *, axis: int) -> Tensor:
    """Continued beyond both ends of an axis by odd reflection about the end's value, as far as there is any."""
    n = values.shape[axis]
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, n - 1, 1)
    parts = [values]
    if before:
        parts.insert(0, 2 * first - values.narrow(axis, 1, before).flip(axis))
    if after:
        parts.append(2 * last - values.narrow(axis, n - 1 - after, after).flip(axis))
    return torch.cat(parts, dim=axis)


def _block_sums(values: Tensor, factor: int) -> Tensor:
    height, width = values.shape[-2:]
    padded = torch.nn.functional.pad(values, (0, -width % factor, 0, -height % factor))
    blocks = padded.reshape(*values.shape[:-2], padded.shape[-2] // factor, factor, padded.shape[-1] // factor, factor)
    return blocks.sum(dim=(-3, -1))
