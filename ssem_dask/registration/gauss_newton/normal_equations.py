"""The linear system of one Gauss-Newton step, and its solution.

At feature pixel x the residual is r = B(x + u) - A, c channels; u is interpolated from nodes, u = Σ_n φ_n u_n. With g
the derivative of r by u, robust weights w, and rows lumped on their diagonal:

    T_n = Σ_x φ_n w g gᵀ,  b_n = Σ_x φ_n w g r,  (T_n + c₂ R + ε) δ = -b - c₂ R u.

Lumping changes the path, not the end: where δ = 0 solves it, b + c₂ R u = 0, the condition of the full system.
Everything is batched over pairs, the first axis, and pairs do not see each other. Displacements are in feature px of
the level.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.regularisation import CosineBasis, CurvatureWeights, curvature
from ssem_dask.registration.gauss_newton.scales import Scale
from ssem_dask.registration.vector_map import axis_index, axis_matrix

Kind: TypeAlias = Literal["bilinear", "bspline"]

DAMPING = 1e-3
"""ε relative to the mean of T: keeps a step bounded where there is no data at all."""


@dataclass(frozen=True, slots=True)
class NodeBasis:
    """The functions φ_n of a node grid on a pixel grid: one matrix per axis."""

    y: Tensor
    """`(h, ny)`; every row sums to 1."""
    x: Tensor
    """`(w, nx)`."""
    cell: float
    """s²: the area of a node's cell, px."""

    @classmethod
    def between(cls, *, nodes: Grid, pixels: Grid, kind: Kind, device: torch.device | str) -> "NodeBasis":
        """The functions of `nodes` seen by `pixels`; beyond the last node its value is kept."""
        y, x = (_functions(pixels, nodes, axis, kind, torch.device(device)) for axis in (0, 1))
        return cls(y, x, (nodes.spacing / pixels.spacing) ** 2)

    def spread(self, values: Tensor) -> Tensor:
        """Nodes `(…, ny, nx)` → pixels `(…, h, w)`."""
        return self.y @ values @ self.x.T

    def gather(self, values: Tensor) -> Tensor:
        """Σ_x φ_n values: pixels `(…, h, w)` → nodes `(…, ny, nx)`; the transpose of `spread`."""
        return self.y.T @ values @ self.x


@lru_cache(maxsize=64)
def _functions(pixels: Grid, nodes: Grid, axis: int, kind: Kind, device: torch.device) -> Tensor:
    return axis_matrix(axis_index(pixels, nodes, axis), count=nodes.shape[axis], kind=kind).to(device)


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """T and b of a batch of pairs."""

    yy: Tensor
    """`(n, ny, nx)`, and so the others: the entries of T_n."""
    yx: Tensor
    xx: Tensor
    b: Tensor
    """`(n, 2, ny, nx)`."""
    stiffness: Tensor
    """`(n, 1, 1, 1)`: h̄ s², the mean of ½ tr T over nodes that lie wholly in tissue, or as it was given."""


def assemble(
    *,
    residual: Tensor,
    gradient_y: Tensor,
    gradient_x: Tensor,
    valid: Tensor,
    cutoff: float,
    basis: NodeBasis,
    scale: Scale | None = None,
) -> NormalEquations:
    """T and b.

    Args:
        residual: r `(n, c, h, w)`.
        gradient_y: g along y, `(n, c, h, w)`, per feature px.
        gradient_x: g along x.
        valid: `(n, h, w)` float32; pixels where it is 0 do not count.
        cutoff: rc: residuals of rc times their rms weigh a quarter.
        basis: of the nodes on these pixels.
        scale: ē and h̄; None: each pair's own.
    """
    weight = robust_weights(residual, valid=valid, cutoff=cutoff, mean=None if scale is None else scale.error)
    products = [
        (a * b).sum(dim=1) * weight
        for a, b in (
            (gradient_y, gradient_y),
            (gradient_y, gradient_x),
            (gradient_x, gradient_x),
            (gradient_y, residual),
            (gradient_x, residual),
        )
    ]
    mean = mean_hessian(products[0] + products[2], valid=valid)
    if scale is not None:
        mean = torch.full_like(mean, scale.hessian)
    yy, yx, xx, by, bx = basis.gather(torch.stack(products)).unbind()
    return NormalEquations(yy, yx, xx, torch.stack([by, bx], dim=1), (mean * basis.cell)[:, None, None, None])


def robust_weights(residual: Tensor, *, valid: Tensor, cutoff: float, mean: float | None = None) -> Tensor:
    """w = valid / (1 + e / (rc² ē))² `(n, h, w)`, e = Σ_c r² (Geman and McClure 1987); ē is `mean`, else the pair's."""
    error = residual.square().sum(dim=1)
    typical = mean_error(residual, valid=valid)[:, None, None] if mean is None else error.new_tensor(mean)
    return valid / (1.0 + error / (cutoff**2 * typical).clamp(min=1e-12)).square()


def mean_error(residual: Tensor, *, valid: Tensor) -> Tensor:
    """ē `(n,)` of each pair: the mean of Σ_c r² over its valid px."""
    return (residual.square().sum(dim=1) * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1.0)


def mean_hessian(trace: Tensor, *, valid: Tensor) -> Tensor:
    """h̄ `(n,)` of each pair, from tr(w g gᵀ) `(n, h, w)`."""
    return 0.5 * trace.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1.0)


def solve_step(
    equations: NormalEquations,
    *,
    u: Tensor,
    smoothness: float,
    basis: CosineBasis,
    iterations: int,
    weights: CurvatureWeights | None = None,
) -> Tensor:
    """δ `(n, 2, ny, nx)` by preconditioned conjugate gradients.

    Args:
        equations: T and b.
        u: displacements so far `(n, 2, ny, nx)`, feature px, relative to those that are held smooth already.
        smoothness: (L / S)⁴: c₂ relative to the mean of T.
        basis: of the nodes.
        iterations: of conjugate gradients.
        weights: of the second differences; None where nothing is torn.
    """
    c2 = equations.stiffness * smoothness
    damping = DAMPING * equations.stiffness
    traces = torch.stack([equations.yy.mean(dim=(1, 2)), equations.xx.mean(dim=(1, 2))], dim=1)[:, :, None, None]
    # A pair without any data has T = 0: its right side is 0 too, and so shall its step be.
    diagonal = (traces + damping).clamp(min=1e-12)

    def apply(d: Tensor) -> Tensor:
        y, x = d[:, 0], d[:, 1]
        data = torch.stack([equations.yy * y + equations.yx * x, equations.yx * y + equations.xx * x], dim=1)
        return data + c2 * curvature(d, weights) + damping * d

    left = -equations.b - c2 * curvature(u, weights)
    step = torch.zeros_like(u)
    direction = scaled = basis.solve(left, diagonal=diagonal, smoothness=c2)
    product = _dot(left, scaled)
    for _ in range(iterations):
        applied = apply(direction)
        length = product / _dot(direction, applied).clamp(min=1e-30)
        step = step + length * direction
        left = left - length * applied
        scaled = basis.solve(left, diagonal=diagonal, smoothness=c2)
        previous, product = product, _dot(left, scaled)
        direction = scaled + product / previous.clamp(min=1e-30) * direction
    return step


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)
