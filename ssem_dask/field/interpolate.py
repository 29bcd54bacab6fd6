"""Sampling of images and fields between their nodes.

Outside the grid the border value is repeated. Interpolations: `nearest` for labels, `bilinear`, `bicubic` (Keys,
a = -0.75, as in torch) and `bspline` (interpolating cubic B-spline, Unser 1999, doi:10.1109/79.799930).
Laws: at a node every interpolation gives the node's value; a constant is reproduced; bilinear and bspline reproduce a
linear ramp in the interior.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from ssem_dask.field.affine import Affine, localise_affine
from ssem_dask.field.grid import Grid, constant_like
from ssem_dask.types import ShapeYX

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "bspline"]

_SPLINE_POLE = 3.0**0.5 - 2.0
_SPLINE_REACH = 16  # nodes; |pole|**16 is 7e-10, below float32's precision
# In units of half the grid; grid_sample may read out of bounds at larger coordinates (pytorch#35202).
_MAX_COORDINATE = 1e6


def sample(
    values: Float[Tensor, "c y x"], *, grid: Grid, positions: Float[Tensor, "2 *points"], kind: Interpolation
) -> Float[Tensor, "c *points"]:
    """Sample `values` at `positions`; NaN in either spreads, so use `sample_known` for fields with unknown nodes.

    Args:
        values: float32 values on `grid`.
        grid: grid of the values.
        positions: float32, mip-0 px.
        kind: interpolation between the nodes.
    """
    if kind == "bspline":
        return _sample_bspline(values, grid=grid, positions=positions)
    return sample_at(values, index=grid.index(positions), kind=kind)


def sample_at(
    values: Float[Tensor, "c y x"],
    *,
    index: Float[Tensor, "2 *points"],
    kind: Literal["nearest", "bilinear", "bicubic"],
) -> Float[Tensor, "c *points"]:
    """Sample at fractional node indices; see `sample`."""
    query = _to_grid_sample(index.reshape(2, 1, -1), (values.shape[-2], values.shape[-1]))
    out = grid_sample(values[None], query[None], mode=kind, padding_mode="border", align_corners=False)
    return out[0].reshape(-1, *index.shape[1:])


def sample_lattice(
    values: Float[Tensor, "c y x"], *, grid: Grid, rows: Float[Tensor, "h"], columns: Float[Tensor, "w"]
) -> Float[Tensor, "c h w"]:
    """Sample bilinearly at all crossings of rows and columns: one axis after the other, which is less work.

    Args:
        values: values on `grid`, no NaN.
        grid: grid of the values.
        rows: float32, y of the positions, mip-0 px.
        columns: float32, x of the positions, mip-0 px.
    """
    for axis, positions in ((1, rows), (2, columns)):
        last = grid.shape[axis - 1] - 1
        index = ((positions - grid.origin[axis - 1]) / grid.spacing - 0.5).clamp(0.0, float(last))
        first = index.floor()
        share = (index - first).reshape(-1, 1) if axis == 1 else index - first
        node = first.long()
        lower, upper = values.index_select(axis, node), values.index_select(axis, (node + 1).clamp(max=last))
        values = torch.lerp(lower, upper, share)
    return values


def sample_affine(
    values: Float[Tensor, "c y x"], *, grid: Grid, affine: Affine
) -> tuple[Float[Tensor, "c y x"], Bool[Tensor, "y x"]]:
    """Sample bilinearly at the positions to which an affine map takes the grid's own nodes.

    Positions are not computed as such: each coordinate is the sum of a part by row and a part by column.

    Args:
        values: float32 values on `grid`.
        grid: grid of the values.
        affine: full map, mip-0 px.

    Returns:
        The samples, and whether each position is in the area that the grid's cells cover.
    """
    local = localise_affine(affine, target=grid.origin, source=grid.origin)
    rows, columns = ((torch.arange(n, device=values.device) + 0.5) * grid.spacing for n in grid.shape)
    normalised = values.new_empty((2, *grid.shape))
    for axis, count in enumerate(grid.shape):
        by_row, by_column, shift = (local[axis] * (2 / (count * grid.spacing))).tolist()
        torch.add((rows * by_row + (shift - 1.0))[:, None], columns * by_column, out=normalised[axis])
    inside = normalised.abs() <= 1.0
    query = _as_query(normalised)
    out = grid_sample(values[None], query[None], mode="bilinear", padding_mode="border", align_corners=False)
    return out[0], inside[0] & inside[1]


def sample_batch(
    values: Float[Tensor, "n c y x"], *, grid: Grid, positions: Float[Tensor, "n 2 h w"]
) -> Float[Tensor, "n c h w"]:
    """Sample each of `values`, all on `grid`, at its own positions, bilinearly."""
    query = _to_grid_sample(grid.index(positions.transpose(0, 1)), grid.shape)
    return grid_sample(values, query, mode="bilinear", padding_mode="border", align_corners=False)


def sample_known(
    field: Float[Tensor, "c y x"], *, grid: Grid, positions: Float[Tensor, "2 *points"]
) -> Float[Tensor, "c *points"]:
    """Sample a field that has unknown (NaN) nodes, bilinearly.

    Known nodes have their usual weights and unknown ones are left out. If less than half of the weight is known, or the
    position itself is unknown, the result is NaN (C8).

    Args:
        field: values on `grid`.
        grid: grid of the field.
        positions: mip-0 px.
    """
    if bool(torch.isfinite(field).all()) and bool(torch.isfinite(positions).all()):
        return sample(field, grid=grid, positions=positions, kind="bilinear")
    flat = positions.reshape(1, 2, 1, -1)
    return sample_known_batch(field[None], grid=grid, positions=flat)[0].reshape(-1, *positions.shape[1:])


def sample_known_batch(
    fields: Float[Tensor, "n c y x"], *, grid: Grid, positions: Float[Tensor, "n 2 h w"]
) -> Float[Tensor, "n c h w"]:
    """Sample each of `fields`, all on `grid`, at its own positions; see `sample_known`."""
    known = torch.isfinite(fields).all(dim=1, keepdim=True)
    reachable = torch.isfinite(positions).all(dim=1, keepdim=True)
    stacked = torch.cat([torch.where(known, fields, torch.zeros_like(fields)), known.to(fields.dtype)], dim=1)
    out = sample_batch(stacked, grid=grid, positions=torch.where(reachable, positions, torch.zeros_like(positions)))
    weight = out[:, -1:]
    return torch.where(
        (weight >= 0.5) & reachable, out[:, :-1] / weight.clamp(min=0.5), torch.full_like(out[:, :-1], torch.nan)
    )


def _to_grid_sample(index: Tensor, shape: ShapeYX) -> Tensor:
    """Convert fractional (y, x) node indices `(2, …)` to grid_sample's normalised (x, y) `(…, 2)`."""
    return _as_query((2.0 * index).add_(1.0).div_(constant_like(shape, index)).sub_(1.0))


def _as_query(normalised: Tensor) -> Tensor:  # the only place with xy order (C1)
    """Convert normalised (y, x) positions `(2, …)`, which are modified, to grid_sample's (x, y) `(…, 2)`."""
    return normalised.clamp_(-_MAX_COORDINATE, _MAX_COORDINATE).flip(0).movedim(0, -1)


def spline_coefficients(values: Float[Tensor, "c y x"]) -> Float[Tensor, "c y x"]:
    """Compute the coefficients of the cubic B-spline through `values`, mirrored at the border nodes.

    The inverse of the filter [1, 4, 1]/6 is the two-sided exponential `-6z/(1 - z²) · z^|n|` with pole z = √3 - 2,
    truncated where it falls below float32's precision.
    """
    for axis in (1, 2):
        values = _prefilter(values.transpose(axis, 2)).transpose(axis, 2)
    return values


def _prefilter(values: Tensor) -> Tensor:
    """Apply the inverse filter along the last axis."""
    n = values.shape[-1]
    if n == 1:
        return values
    offsets = torch.arange(-_SPLINE_REACH, _SPLINE_REACH + 1, device=values.device)
    kernel = (_SPLINE_POLE ** offsets.abs().double()) * (-6.0 * _SPLINE_POLE / (1.0 - _SPLINE_POLE**2))
    index = torch.arange(n, device=values.device)[:, None] + offsets[None, :]
    matrix = torch.zeros(n, n, dtype=torch.float64, device=values.device)
    rows = torch.arange(n, device=values.device)[:, None].expand_as(index)
    matrix.index_put_((rows, _mirror(index, n)), kernel.expand(n, -1), accumulate=True)
    return values @ matrix.T.to(values.dtype)


def _mirror(index: Tensor, n: int) -> Tensor:
    """Reflect indices about the first and last node."""
    if n == 1:
        return torch.zeros_like(index)
    period = 2 * (n - 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def _sample_bspline(values: Tensor, *, grid: Grid, positions: Tensor) -> Tensor:
    coefficients = spline_coefficients(values)
    h, w = grid.shape
    index = grid.index(positions)
    index = torch.minimum(index.clamp(min=0.0), constant_like((h - 1, w - 1), index))
    base = index.floor()
    t = index - base
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6.0
    out = torch.zeros(values.shape[0], *positions.shape[1:], dtype=values.dtype, device=values.device)
    flat = coefficients.reshape(values.shape[0], -1)
    nodes = base.long()
    for i in range(4):
        row = _mirror(nodes[0] + (i - 1), h)
        for j in range(4):
            column = _mirror(nodes[1] + (j - 1), w)
            out = out + flat[:, (row * w + column).reshape(-1)].reshape(out.shape) * (weights[i, 0] * weights[j, 1])
    return out
