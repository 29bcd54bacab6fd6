"""Jitter: how far the alignment error jumps from one section to the next.

|c_z' - c_z| between adjacent sections, where missing ones are skipped, over all nodes that count in both. Any gauge,
one and the same map for all z, cancels in the difference. In truth px.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssem_dask.evaluation.metrics.distribution import Distribution


@dataclass(frozen=True, slots=True)
class Jitter:
    """Jitter of a volume, truth px; NaN where nothing could be compared."""

    median: float
    p95: float
    p99: float
    rms_over_root2: float
    """J: the rms over the volume, divided by √2; the rms error of one section if errors are independent along z."""
    nodes: int
    """How many node pairs were compared."""


class JitterMeter:
    """Gathers jitter while the sections come by in order of z; holds one section."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None
        self._jumps = Distribution()

    def add(self, error: Tensor) -> None:
        """Add the next section that is not missing: c_z `(2, y, x)`, or any other map whose jumps are wanted."""
        if self._previous is not None:
            self._jumps.add(torch.linalg.vector_norm(error - self._previous, dim=0))
        self._previous = error

    def skip(self) -> None:
        """Count no jump between the section before and the one that comes next."""
        self._previous = None

    def result(self) -> Jitter:
        """The jitter so far."""
        jumps = self._jumps
        return Jitter(
            median=jumps.median,
            p95=jumps.quantile(0.95),
            p99=jumps.quantile(0.99),
            rms_over_root2=jumps.rms / 2**0.5,
            nodes=jumps.count,
        )
