"""Jitter: the difference of the alignment error between adjacent sections.

|c_z' - c_z| over all nodes that count in both sections, truth px. Missing sections are skipped, so z' is the previous
section that is not missing. Any gauge, which is the same map for all z, cancels in the difference.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssem_dask.evaluation.metrics.distribution import Distribution


@dataclass(frozen=True, slots=True)
class Jitter:
    """Jitter of a volume, truth px; NaN if nothing could be compared."""

    median: float
    p95: float
    p99: float
    rms_over_root2: float
    """Root mean square over the volume, divided by √2: the error of one section if errors are independent along z."""
    nodes: int
    """Number of compared pairs of nodes."""


class JitterMeter:
    """Accumulates jitter section by section in order of z; keeps one section."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None
        self._differences = Distribution()

    def add(self, error: Tensor) -> None:
        """Add c_z `(2, y, x)` of the next section that is not missing, or any other map."""
        if self._previous is not None:
            self._differences.add(torch.linalg.vector_norm(error - self._previous, dim=0))
        self._previous = error

    def skip(self) -> None:
        """Count no difference between the previous section and the next one."""
        self._previous = None

    def result(self) -> Jitter:
        """Return the jitter so far."""
        differences = self._differences
        return Jitter(
            median=differences.median,
            p95=differences.quantile(0.95),
            p99=differences.quantile(0.99),
            rms_over_root2=differences.rms / 2**0.5,
            nodes=differences.count,
        )
