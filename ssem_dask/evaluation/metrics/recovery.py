"""Recovery error: the part of a known deformation that a method did not undo, independent of natural motion.

The same method runs on the undeformed sections (field f0_z) and on the deformed ones (f_z, with truth d_z). Both runs
bend the tissue if neighbours differ by nature, but equally. So c_z = d_z∘f_z and f0_z, both aligned → truth, should
agree up to the gauges of the two runs: if the deformation was undone, C_z = F0_z∘G with one map G for all z. In
displacements, G(p) = p + g(p), this reads c_z(p) = g(p) + f0_z(p + g(p)). With

    e_z(p) = c_z(p) - f0_z(p + g(p))

the recovery error is |e_z' - e_z| between adjacent sections, truth px. g(p) itself cancels in the difference; it is
needed only to sample f0_z at the right position. It is taken from the middle section by solving c - f0∘G = g by
fixed-point iteration; an affine map fills in nodes at which that section is damaged. An error of the method in that
section shifts the sampling by the same amount, which changes e_z' - e_z by that times the gradient of f0_z' - f0_z: an
effect of second order.

For fields that are all 0 (the observed sections) the recovery error is the jitter of the deformation itself.
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
_LEAST_NODES = 3
"""Nodes that an affine map needs."""


def gauge_between(*, error: Tensor, undeformed: Tensor) -> Tensor:
    """Return the gauge g `(2, y, x)` between the two runs, px, from c_z and f0_z of one section; 0 if it is unknown."""
    grid = Grid((error.shape[1], error.shape[2]), SPACING)
    positions = grid.positions()
    gauge = torch.zeros_like(error)
    for _ in range(_ITERATIONS):
        update = error - sample_known(undeformed, grid=grid, positions=positions + gauge)
        known = torch.isfinite(update).all(dim=0)
        if int(known.sum()) < _LEAST_NODES:
            return torch.zeros_like(error)
        points = positions[:, known].double().numpy().T
        targets = points + update[:, known].double().numpy().T
        affine = affine_field(fit_affine(positions=points, targets=targets, weights=np.ones(len(points))), grid=grid)
        gauge = torch.where(known, update, affine)
    return gauge


class RecoveryMeter:
    """Accumulates the recovery error section by section in order of z."""

    def __init__(self, gauge: Tensor) -> None:
        self._gauge = gauge
        self._jitter = JitterMeter()

    def add(self, *, error: Tensor, undeformed: Tensor) -> None:
        """Add c_z and f0_z of the next section that is not missing, both `(2, y, x)` on the 4-px grid."""
        grid = Grid((undeformed.shape[1], undeformed.shape[2]), SPACING)
        self._jitter.add(error - sample_known(undeformed, grid=grid, positions=grid.positions() + self._gauge))

    def result(self) -> Jitter:
        """Return the recovery error so far, with the statistics of jitter."""
        return self._jitter.result()
