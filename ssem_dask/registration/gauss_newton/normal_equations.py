"""Linear system of one Gauss-Newton step, and its solution.

At feature pixel x the residual is r = B(x + u) - A, c channels; u is interpolated from nodes, u = Σ_n φ_n u_n. With g
the derivative of r by u, robust weights w, and rows of the data term lumped on their diagonal:

    T_n = Σ_x φ_n w g gᵀ,  b_n = Σ_x φ_n w g r,  (T_n + c₂ R + ε) δ = -b - c₂ R u.

Lumping changes the path, not the end: if δ = 0 solves the system, b + c₂ R u = 0, the condition of the full system.
Everything is batched over pairs, the first axis, and pairs do not affect each other. Displacements are in feature px of
the level.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.regularisation import CosineBasis, CurvatureWeights, curvature
from ssem_dask.registration.gauss_newton.scales import ResidualScale
from ssem_dask.registration.vector_map import axis_index, axis_matrix

NodeInterpolation: TypeAlias = Literal["bilinear", "bspline"]

DAMPING = 1e-3
"""ε relative to the mean of T: keeps a step bounded if there is no data at all."""


@dataclass(frozen=True, slots=True)
class NodeBasis:
    """The functions φ_n of a node grid on a pixel grid: one matrix per axis."""

    y: Float[Tensor, "h ny"]
    """Every row sums to 1."""
    x: Float[Tensor, "w nx"]
    cell: float
    """s²: the area of a node's cell, px²."""

    @classmethod
    def between(cls, *, nodes: Grid, pixels: Grid, kind: NodeInterpolation, device: torch.device | str) -> "NodeBasis":
        """Evaluate the functions of `nodes` at `pixels`; beyond the last node its value is kept."""
        y, x = (_functions(pixels, nodes, axis, kind, torch.device(device)) for axis in (0, 1))
        return cls(y, x, (nodes.spacing / pixels.spacing) ** 2)

    def spread(self, values: Float[Tensor, "*n ny nx"]) -> Float[Tensor, "*n h w"]:
        """Interpolate values of nodes to pixels."""
        return self.y @ values @ self.x.T

    def gather(self, values: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n ny nx"]:
        """Sum φ_n · values over the pixels, for each node: the transpose of `spread`."""
        return self.y.T @ values @ self.x


@lru_cache(maxsize=64)
def _functions(pixels: Grid, nodes: Grid, axis: int, kind: NodeInterpolation, device: torch.device) -> Tensor:
    # Kept, since to build a matrix and bring it to a GPU takes longer than to use it.
    return axis_matrix(axis_index(pixels, nodes, axis), count=nodes.shape[axis], kind=kind).to(device)


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """T and b of a batch of pairs."""

    yy: Float[Tensor, "n ny nx"]
    """Entry of T_n, as are `yx` and `xx`."""
    yx: Float[Tensor, "n ny nx"]
    xx: Float[Tensor, "n ny nx"]
    b: Float[Tensor, "n 2 ny nx"]
    stiffness: Float[Tensor, "n 1 1 1"]
    """h̄ s²: mean of ½ tr T over nodes that are wholly in tissue, or the configured value."""


def assemble(
    *,
    residual: Float[Tensor, "n c h w"],
    gradient_y: Float[Tensor, "n c h w"],
    gradient_x: Float[Tensor, "n c h w"],
    valid: Float[Tensor, "n h w"],
    cutoff: float,
    basis: NodeBasis,
    scale: ResidualScale | None = None,
) -> NormalEquations:
    """Assemble T and b.

    Args:
        residual: r.
        gradient_y: g along y, per feature px.
        gradient_x: g along x.
        valid: float32; pixels where it is 0 do not count.
        cutoff: rc: residuals of rc times their rms have a weight of 1/4.
        basis: functions of the nodes on these pixels.
        scale: ē and h̄; None: each pair's own.
    """
    weight = robust_weights(residual, valid=valid, cutoff=cutoff, mean=None if scale is None else scale.error)
    # T is symmetric: three entries of it and two of b per node.
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
    # A common unit for all windows, so that fields on both sides of a border agree (docs/decisions/0022).
    if scale is not None:
        mean = torch.full_like(mean, scale.hessian)
    yy, yx, xx, by, bx = basis.gather(torch.stack(products)).unbind()
    return NormalEquations(yy, yx, xx, torch.stack([by, bx], dim=1), (mean * basis.cell)[:, None, None, None])


def robust_weights(
    residual: Float[Tensor, "n c h w"], *, valid: Float[Tensor, "n h w"], cutoff: float, mean: float | None = None
) -> Float[Tensor, "n h w"]:
    """Compute Geman-McClure weights w = valid / (1 + e / (rc² ē))² with e = Σ_c r² (Geman and McClure 1987).

    Args:
        residual: r.
        valid: pixels where it is 0 have no weight.
        cutoff: rc.
        mean: ē; None: that of each pair.
    """
    error = residual.square().sum(dim=1)
    unit = mean_error(residual, valid=valid)[:, None, None] if mean is None else error.new_tensor(mean)
    # Redescending: the influence of an outlier falls to 0, which it does not with Huber weights.
    return valid / (1.0 + error / (cutoff**2 * unit).clamp(min=1e-12)).square()


def mean_error(residual: Float[Tensor, "n c h w"], *, valid: Float[Tensor, "n h w"]) -> Float[Tensor, "n"]:
    """Compute ē of each pair: the mean of Σ_c r² over its valid px."""
    return (residual.square().sum(dim=1) * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1.0)


def mean_hessian(trace: Float[Tensor, "n h w"], *, valid: Float[Tensor, "n h w"]) -> Float[Tensor, "n"]:
    """Compute h̄ of each pair from tr(w g gᵀ)."""
    return 0.5 * trace.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1.0)


def solve_step(
    equations: NormalEquations,
    *,
    u: Float[Tensor, "n 2 ny nx"],
    smoothness: float,
    basis: CosineBasis,
    iterations: int,
    weights: CurvatureWeights | None = None,
) -> Float[Tensor, "n 2 ny nx"]:
    """Solve for δ by preconditioned conjugate gradients (Hestenes and Stiefel 1952).

    Args:
        equations: T and b.
        u: displacements so far, feature px, relative to those of the pass before.
        smoothness: (L / S)⁴: c₂ relative to the mean of T.
        basis: cosine basis of the nodes, for the preconditioner.
        iterations: iterations of conjugate gradients.
        weights: weights of the second differences; None if nothing is torn.
    """
    # Relative to the data's own stiffness, so that L means the same for any encoder and contrast.
    c2 = equations.stiffness * smoothness
    damping = DAMPING * equations.stiffness
    # The preconditioner replaces T by its mean over the nodes, so that the cosine transform diagonalises the system.
    traces = torch.stack([equations.yy.mean(dim=(1, 2)), equations.xx.mean(dim=(1, 2))], dim=1)[:, :, None, None]
    # A pair without any data has T = 0 and a right side of 0; the bound makes its step 0 instead of NaN.
    diagonal = (traces + damping).clamp(min=1e-12)

    def apply_system(d: Tensor) -> Tensor:
        y, x = d[:, 0], d[:, 1]
        data = torch.stack([equations.yy * y + equations.yx * x, equations.yx * y + equations.xx * x], dim=1)
        return data + c2 * curvature(d, weights) + damping * d

    # The gradient of the objective at u; the data term b is assembled there.
    remainder = -equations.b - c2 * curvature(u, weights)
    step = torch.zeros_like(u)
    direction = scaled = basis.solve(remainder, diagonal=diagonal, smoothness=c2)
    product = _dot(remainder, scaled)
    # A fixed number of iterations, without a test of convergence, which would wait for a GPU each time.
    for _ in range(iterations):
        applied = apply_system(direction)
        # The bounds of this loop avoid 0 / 0 once a pair has converged or has no data.
        length = product / _dot(direction, applied).clamp(min=1e-30)
        step = step + length * direction
        remainder = remainder - length * applied
        scaled = basis.solve(remainder, diagonal=diagonal, smoothness=c2)
        previous, product = product, _dot(remainder, scaled)
        direction = scaled + product / previous.clamp(min=1e-30) * direction
    return step


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)
