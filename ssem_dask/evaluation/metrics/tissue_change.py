"""Change of tissue by the recovered fields: folds, strain, displacement.

With J the Jacobian matrix of p + f_z(p), tissue is folded at |J| <= 0, and the strain is the largest |σ - 1| over the
singular values σ of J (the principal stretches).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.evaluation.metrics.distribution import Distribution
from ssem_dask.field.affine import affine_field, fit_affine
from ssem_dask.field.folding import jacobian_determinant, strain
from ssem_dask.field.grid import Grid


@dataclass(frozen=True, slots=True)
class TissueChange:
    """Change of tissue by the fields of a volume; NaN if nothing is known."""

    fold_rate: float
    """Share of the known cells with |J| <= 0."""
    strain_p99: float
    """99th percentile of the largest principal stretch or compression |σ - 1|."""
    displacement_median: float
    """Median of |f_z|, px."""
    elastic_median: float
    """Median length of f_z without the affine map that fits it best, section by section, px."""
    known: float
    """Share of the nodes that are known."""


class TissueChangeMeter:
    """Accumulates the change of tissue section by section."""

    def __init__(self) -> None:
        self._folded = 0
        self._cells = 0
        self._nodes = 0
        self._known = 0
        self._strain = Distribution()
        self._displacement = Distribution()
        self._elastic = Distribution()

    def add(self, field: Tensor, *, spacing: float) -> None:
        """Add f_z `(2, y, x)` with `spacing` px between nodes."""
        known = torch.isfinite(field).all(dim=0)
        self._nodes += known.numel()
        self._known += int(known.sum())
        determinant = jacobian_determinant(field, spacing=spacing)
        self._folded += int((determinant <= 0).sum())
        self._cells += int(torch.isfinite(determinant).sum())
        self._strain.add(strain(field, spacing=spacing))
        self._displacement.add(torch.linalg.vector_norm(field, dim=0))
        if int(known.sum()) >= 3:
            grid = Grid((field.shape[1], field.shape[2]), spacing)
            points = grid.positions()[:, known].double().numpy().T
            targets = points + field[:, known].double().numpy().T
            affine = fit_affine(positions=points, targets=targets, weights=np.ones(len(points)))
            self._elastic.add(torch.linalg.vector_norm(field - affine_field(affine, grid=grid), dim=0))

    def result(self) -> TissueChange:
        """Return the change so far."""
        return TissueChange(
            fold_rate=self._folded / self._cells if self._cells else math.nan,
            strain_p99=self._strain.quantile(0.99),
            displacement_median=self._displacement.median,
            elastic_median=self._elastic.median,
            known=self._known / self._nodes if self._nodes else math.nan,
        )
