"""Coarse vector map v of the spatial transformer, and its interpolation to pixels.

v `(2, ny, nx)` holds displacements (dy, dx) in mip-0 px at the nodes of a grid (C1, C3, C4). It is a pull field (C5):
the warped section at p is the section at p + v(p). Kinds of interpolation (Yoo et al. 2017, arXiv 1707.07833, use
bilinear and thin-plate splines; the other two are additions):

- `bilinear`: hat functions.
- `bicubic`: Keys' cubic convolution with a = -1/2 (Keys 1981, doi:10.1109/TASSP.1981.1163711).
- `bspline`: v are the coefficients of a cubic B-spline, the free-form deformation of Rueckert et al. 1999,
  doi:10.1109/42.796284. It approximates: at a node it is the [1, 4, 1]/6 average of the nodes around it.
- `tps`: the thin-plate spline through the nodes (Bookstein 1989, doi:10.1109/34.24792), evaluated at a lattice of a
  quarter of the node spacing and carried to the pixels by cubic convolution.

Laws: every kind is linear in v and reproduces a constant; bilinear, bicubic and tps give the node's value at a node;
all reproduce a linear ramp two nodes inside the border. The first three are separable, so a map is two small matrix
products, and its gradient with respect to v costs the same.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.errors import ConfigError
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import spline_coefficients
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import PointYX

MapInterpolation: TypeAlias = Literal["bilinear", "bicubic", "bspline", "tps"]

_KEYS_A = -0.5  # Keys' a: the only value with third-order accuracy
_LATTICE_FACTOR = 4  # lattice points of the thin-plate spline per node and axis
_MAX_TPS_NODES = 4096  # the spline's matrices grow with the square of this: 64 MB lattice rows per 1000 nodes


@dataclass(frozen=True, slots=True)
class VectorMap:
    """Vectors at nodes, and their kind of interpolation."""

    values: Float[Tensor, "2 ny nx"]
    """float32, mip-0 px; coefficients if the kind is `bspline`."""
    nodes: Grid
    kind: MapInterpolation

    def on(self, grid: Grid) -> Float[Tensor, "2 y x"]:
        """Interpolate the displacement field to the nodes or pixels of `grid`."""
        return Interpolator(nodes=self.nodes, onto=grid, kind=self.kind, device=self.values.device)(self.values)

    def refined(self, nodes: Grid) -> "VectorMap":
        """Return the same map on other nodes: equal at those nodes (for `bspline` up to the border's mirroring)."""
        values = self.on(nodes)
        return VectorMap(spline_coefficients(values) if self.kind == "bspline" else values, nodes, self.kind)


def covering_nodes(image: Grid, *, spacing: float) -> Grid:
    """Make nodes that cover an image and extend one row beyond it on every side, so that nothing is extrapolated."""
    extent = [n * image.spacing for n in image.shape]
    ny, nx = (ceil_div(round(e), max(1, round(spacing))) + 2 for e in extent)
    # Centred on the image, so that all four borders are treated alike.
    origin = tuple(o + e / 2 - n * spacing / 2 for o, e, n in zip(image.origin, extent, (ny, nx), strict=True))
    return Grid((ny, nx), spacing, _point(origin))


class Interpolator:
    """Evaluator of vector maps on one grid; its matrices are made once."""

    def __init__(self, *, nodes: Grid, onto: Grid, kind: MapInterpolation, device: torch.device | str) -> None:
        self._lattice: Tensor | None = None
        self._lattice_shape = nodes.shape
        if kind == "tps":
            lattice = _tps_lattice(nodes)
            self._lattice = _tps_matrix(nodes=nodes, onto=lattice).to(device)
            self._lattice_shape = lattice.shape
            nodes, kind = lattice, "bicubic"
        rows, columns = (
            axis_matrix(axis_index(onto, nodes, axis), count=nodes.shape[axis], kind=kind) for axis in (0, 1)
        )
        self._rows = rows.to(device)
        self._columns_t = columns.T.contiguous().to(device)

    def __call__(self, values: Float[Tensor, "2 ny nx"]) -> Float[Tensor, "2 y x"]:
        """Interpolate the vectors to a field; differentiable in them."""
        if self._lattice is not None:
            values = (values.reshape(2, -1) @ self._lattice.T).reshape(2, *self._lattice_shape)
        return self._rows @ (values @ self._columns_t)


def axis_matrix(
    index: Float[Tensor, "n"], *, count: int, kind: Literal["bilinear", "bicubic", "bspline"]
) -> Float[Tensor, "n count"]:
    """Compute the interpolation weights of `count` nodes at fractional node indices of one axis.

    Beyond the border the border node is repeated.
    """
    index = index.double().clamp(0.0, count - 1.0)
    base = index.floor()
    t = index - base
    weights: dict[int, Tensor]
    if kind == "bilinear":
        weights = {0: 1 - t, 1: t}
    elif kind == "bicubic":
        weights = {-1: _keys_outer(1 + t), 0: _keys_inner(t), 1: _keys_inner(1 - t), 2: _keys_outer(2 - t)}
    else:
        weights = {
            -1: (1 - t) ** 3 / 6,
            0: (3 * t**3 - 6 * t**2 + 4) / 6,
            1: (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            2: t**3 / 6,
        }
    matrix = torch.zeros(len(index), count, dtype=torch.float64)
    rows = torch.arange(len(index))
    for offset, weight in weights.items():
        matrix.index_put_((rows, (base.long() + offset).clamp(0, count - 1)), weight, accumulate=True)
    return matrix.float()


def _keys_inner(distance: Tensor) -> Tensor:
    return (_KEYS_A + 2) * distance**3 - (_KEYS_A + 3) * distance**2 + 1


def _keys_outer(distance: Tensor) -> Tensor:
    return _KEYS_A * (distance**3 - 5 * distance**2 + 8 * distance - 4)


def axis_index(onto: Grid, nodes: Grid, axis: int) -> Float[Tensor, "n"]:
    """Compute fractional node indices, float64, of the rows (axis 0) or columns (axis 1) of `onto`."""
    position = onto.origin[axis] + (torch.arange(onto.shape[axis], dtype=torch.float64) + 0.5) * onto.spacing
    return (position - nodes.origin[axis]) / nodes.spacing - 0.5


def _tps_lattice(nodes: Grid) -> Grid:
    """Make a lattice `_LATTICE_FACTOR` times finer that has points on the nodes and covers the same area."""
    spacing = nodes.spacing / _LATTICE_FACTOR
    shape = ((nodes.shape[0] - 1) * _LATTICE_FACTOR + 1, (nodes.shape[1] - 1) * _LATTICE_FACTOR + 1)
    first = [o + 0.5 * nodes.spacing - 0.5 * spacing for o in nodes.origin]
    return Grid(shape, spacing, _point(first))


def _tps_matrix(*, nodes: Grid, onto: Grid) -> Float[Tensor, "points nodes"]:
    """Compute the weights of the thin-plate spline through all nodes, at the points of a lattice.

    Raises:
        ConfigError: there are more nodes than the dense system is made for.
    """
    count = nodes.shape[0] * nodes.shape[1]
    if count > _MAX_TPS_NODES:
        raise ConfigError(
            f"register.ssemnet.interpolation: 'tps' solves one dense system for all nodes of a window, got {count} "
            f"nodes, at most {_MAX_TPS_NODES} are possible; use a wider node_spacing, a smaller window, or 'bspline'."
        )
    centres = nodes.positions().double().reshape(2, -1).T / nodes.spacing
    points = onto.positions().double().reshape(2, -1).T / nodes.spacing
    # Both in node units about the same origin: keeps the system well conditioned.
    middle = centres.mean(dim=0)
    centres, points = centres - middle, points - middle
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count, :count] = _tps_kernel(torch.cdist(centres, centres))
    system[:count, count:] = _affine_part(centres)
    system[count:, :count] = _affine_part(centres).T
    basis = torch.cat([_tps_kernel(torch.cdist(points, centres)), _affine_part(points)], dim=1)
    # The map from values to coefficients is the left block of the inverse; the system is symmetric.
    weights: Tensor = torch.linalg.solve(system, basis.T)[:count].T.float().contiguous()
    return weights


def _tps_kernel(distance: Tensor) -> Tensor:
    return torch.where(distance > 0, distance**2 * distance.clamp(min=1e-12).log(), torch.zeros_like(distance))


def _affine_part(positions: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(positions), 1, dtype=positions.dtype), positions], dim=1)


def _point(values: tuple[float, ...] | list[float]) -> PointYX:
    y, x = values
    return y, x
