"""Recovery (consistency error): what a method failed to undo of a known deformation, biology left aside.

The same method runs on the undeformed sections (field f0_z) and on the deformed ones (f_z, with truth d_z). Both runs
bend the tissue where neighbours differ by nature, but alike; so c_z = d_z∘f_z and f0_z, both aligned → truth, should
agree. With e_z = c_z - f0_z, the recovery error is |e_z' - e_z| between adjacent sections, truth px.

The gauges of the two runs differ by a map G common to all z: c_z = F0_z∘G if the deformation was undone. For a shift
G(p) = p + g this reads c_z(p) = g + f0_z(p + g). So g is first estimated, as the median of c_z - f0_z over the middle
section, f0_z is sampled at p + g, and the constant g cancels in the difference of adjacent sections. What remains of
a gauge that is not a shift is its deviation from a shift times the change of f0's gradient along z: second order, and
not removed.

For fields that are all 0 (the observed sections) it is the jitter of the deformation itself.
"""

import torch
from torch import Tensor

from ssem_dask.evaluation.metrics.alignment_error import SPACING
from ssem_dask.evaluation.metrics.jitter import Jitter, JitterMeter
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.types import PointYX


def gauge_shift(*, error: Tensor, undeformed: Tensor) -> PointYX:
    """The shift g (y, x) between the two runs, px: median of c_z - f0_z `(2, y, x)`; (0, 0) where nothing is known."""
    difference = (error - undeformed).reshape(2, -1)
    known = difference[:, torch.isfinite(difference).all(dim=0)]
    if known.numel() == 0:
        return 0.0, 0.0
    y, x = known.median(dim=1).values
    return float(y), float(x)


class RecoveryMeter:
    """Gathers the recovery error while the sections come by in order of z."""

    def __init__(self, gauge: PointYX) -> None:
        self._gauge = gauge
        self._jumps = JitterMeter()

    def add(self, *, error: Tensor, undeformed: Tensor) -> None:
        """Add the next section that is not missing: c_z and f0_z, both `(2, y, x)` on the 4-px grid."""
        grid = Grid((undeformed.shape[1], undeformed.shape[2]), SPACING)
        shift = torch.tensor(self._gauge, dtype=torch.float32)[:, None, None]
        self._jumps.add(error - sample_known(undeformed, grid=grid, positions=grid.positions() + shift))

    def result(self) -> Jitter:
        """The recovery error so far, in the terms of jitter."""
        return self._jumps.result()
