"""Bending energy of displacements on nodes, and its approximate inverse.

R is the matrix of the bending energy ½ Σ (D_yy u)² + 2 (D_yx u)² + (D_xx u)², D second differences over neighbouring
nodes that exist: no condition at the border (natural boundary).
Laws: R is symmetric and positive semidefinite; R u = 0 exactly for affine u.

Away from the border R is the square of the discrete Laplacian, which the cosine transform (DCT-II) diagonalises; that
makes the preconditioner. The transform is two small matrix products, so it runs wherever torch runs.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.types import ShapeYX


@dataclass(frozen=True, slots=True)
class CurvatureWeights:
    """Weights of the second differences in R; 1 everywhere gives the plain R.

    Shapes depend on the nodes: `yy` has two rows less than these, `xx` two columns less, `yx` one of each less.
    """

    yy: Float[Tensor, "n 1 _ _"]
    xx: Float[Tensor, "n 1 _ _"]
    yx: Float[Tensor, "n 1 _ _"]


def curvature(u: Float[Tensor, "*n y x"], weights: CurvatureWeights | None = None) -> Float[Tensor, "*n y x"]:
    """Compute R u; with weights Dᵀ W D u."""
    out = torch.zeros_like(u)
    # Each block takes second differences D u, weights them, and adds Dᵀ of them: no matrix is built.
    if u.shape[-2] > 2:
        yy = u[..., 2:, :] - 2.0 * u[..., 1:-1, :] + u[..., :-2, :]
        if weights is not None:
            yy = yy * weights.yy
        out[..., 2:, :] += yy
        out[..., 1:-1, :] -= 2.0 * yy
        out[..., :-2, :] += yy
    if u.shape[-1] > 2:
        xx = u[..., 2:] - 2.0 * u[..., 1:-1] + u[..., :-2]
        if weights is not None:
            xx = xx * weights.xx
        out[..., 2:] += xx
        out[..., 1:-1] -= 2.0 * xx
        out[..., :-2] += xx
    # The mixed term: twice (D_yx u)², as in the bending energy of a thin plate.
    twist = 2.0 * (u[..., 1:, 1:] - u[..., 1:, :-1] - u[..., :-1, 1:] + u[..., :-1, :-1])
    if weights is not None:
        twist = twist * weights.yx
    out[..., 1:, 1:] += twist
    out[..., 1:, :-1] -= twist
    out[..., :-1, 1:] -= twist
    out[..., :-1, :-1] += twist
    return out


@dataclass(frozen=True, slots=True)
class CosineBasis:
    """The orthonormal DCT-II of a node grid."""

    y: Float[Tensor, "ny ny"]
    """Rows are cosines."""
    x: Float[Tensor, "nx nx"]
    spectrum: Float[Tensor, "ny nx"]
    """Squares of the Laplacian's eigenvalues; those of R are close to them."""

    @classmethod
    def of(cls, shape: ShapeYX, *, device: torch.device | str) -> "CosineBasis":
        """Make the basis of a grid of `shape` nodes."""
        (y, frequency_y), (x, frequency_x) = (_cosines(n, device) for n in shape)
        return cls(y, x, (frequency_y[:, None] + frequency_x[None, :]).square())

    def solve(
        self,
        u: Float[Tensor, "n 2 ny nx"],
        *,
        diagonal: Float[Tensor, "n 2 1 1"],
        smoothness: Float[Tensor, "n 1 1 1"],
    ) -> Float[Tensor, "n 2 ny nx"]:
        """Compute (diagonal + smoothness · Laplacian²)⁻¹ u; the diagonal must be above 0."""
        # Two small products per transform; a fast transform gains nothing at these sizes.
        modes = self.y @ u @ self.x.T / (diagonal + smoothness * self.spectrum)
        return self.y.T @ modes @ self.x


def _cosines(n: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Make the orthonormal DCT-II matrix `(n, n)`, and each row's eigenvalue of minus the second difference."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2.0 / n)
    matrix[0] /= math.sqrt(2.0)
    # Eigenvalues of minus the second difference with reflecting ends, which the DCT-II diagonalises exactly.
    eigenvalues = 2.0 - 2.0 * torch.cos(math.pi / n * k)
    return matrix.float().to(device), eigenvalues.float().to(device)
