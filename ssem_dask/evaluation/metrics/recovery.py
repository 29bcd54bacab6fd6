"""Recovery (consistency error): what a method failed to undo of a known deformation, biology left aside.

The same method runs on the undeformed sections (field f0_z) and on the deformed ones (f_z, with truth d_z). Both runs
bend the tissue where neighbours differ by nature, but alike; so c_z = d_z∘f_z and f0_z, both aligned → truth, should
agree, but for the gauges of the two runs: C_z = F0_z∘G with one map G for all z if the deformation was undone. In
displacements, G(p) = p + g(p), this reads c_z(p) = g(p) + f0_z(p + g(p)). So with

    e_z(p) = c_z(p) - f0_z(p + g(p))

the recovery error is |e_z' - e_z| between adjacent sections, truth px: g(p) itself cancels in the difference, whatever
it is. It is only needed to sample f0_z at the right place, and is taken from the middle section, where c - f0∘G = g is
solved by iteration (an affine map fills in where that section is damaged). An error of the method in that one section
displaces the sampling by as much, which changes e_z' - e_z by that times the gradient of f0_z' - f0_z: second order.

For fields that are all 0 (the observed sections) it is the jitter of the deformation itself.
"""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.evaluation.metrics.alignment_error import SPACING
from ssem_dask.evaluation.metrics.jitter import Jitter, JitterMeter
from ssem_dask.field.affine import affine_field, fit_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known

_ITERATIONS = 8
_FEWEST = 3  # nodes that an affine map needs


def gauge_between(*, error: Tensor, undeformed: Tensor) -> Tensor:
    """The gauge g `(2, y, x)` between the two runs, px, from c_z and f0_z of one section; 0 if nothing is known."""
    grid = Grid((error.shape[1], error.shape[2]), SPACING)
    positions = grid.positions()
    gauge = torch.zeros_like(error)
    for _ in range(_ITERATIONS):
        found = error - sample_known(undeformed, grid=grid, positions=positions + gauge)
        known = torch.isfinite(found).all(dim=0)
        if int(known.sum()) < _FEWEST:
            return torch.zeros_like(error)
        points = positions[:, known].double().numpy().T
        targets = points + found[:, known].double().numpy().T
        smooth = affine_field(fit_affine(positions=points, targets=targets, weights=np.ones(len(points))), grid=grid)
        gauge = torch.where(known, found, smooth)
    return gauge


class RecoveryMeter:
    """Gathers the recovery error while the sections come by in order of z."""

    def __init__(self, gauge: Tensor) -> None:
        self._gauge = gauge
        self._jumps = JitterMeter()

    def add(self, *, error: Tensor, undeformed: Tensor) -> None:
        """Add the next section that is not missing: c_z and f0_z, both `(2, y, x)` on the 4-px grid."""
        grid = Grid((undeformed.shape[1], undeformed.shape[2]), SPACING)
        self._jumps.add(error - sample_known(undeformed, grid=grid, positions=grid.positions() + self._gauge))

    def result(self) -> Jitter:
        """The recovery error so far, in the terms of jitter."""
        return self._jumps.result()
