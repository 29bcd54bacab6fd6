"""The alignment error of each section, for charts: its change from the previous section and from the middle one.

These are the numbers behind `jitter_*` and `drift_max`, section by section; truth px.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ssem_dask.storage.evaluation_file import ErrorCurve
from ssem_dask.types import Float32Array

_MAX_NODES = 4096
"""Nodes that are kept per section."""


class ErrorCurveMeter:
    """Accumulates the errors section by section; keeps about 4096 nodes of each."""

    def __init__(self) -> None:
        self._z: list[int] = []
        self._jitter: list[float] = []
        self._errors: list[Float32Array] = []
        self._previous: Tensor | None = None

    def add(self, z: int, error: Tensor) -> None:
        """Add c_z `(2, y, x)`, px, of the next section that is not missing."""
        jump = math.nan if self._previous is None else _median_length((error - self._previous).numpy())
        step = max(1, math.ceil(math.sqrt(error[0].numel() / _MAX_NODES)))
        self._z.append(z)
        self._jitter.append(jump)
        self._errors.append(error[:, step // 2 :: step, step // 2 :: step].numpy().copy())
        self._previous = error

    def result(self) -> ErrorCurve:
        """Return the curves so far."""
        middle = self._errors[len(self._errors) // 2] if self._errors else None
        drift = [_median_length(error - middle) for error in self._errors if middle is not None]
        return ErrorCurve(tuple(self._z), tuple(self._jitter), tuple(drift))


def _median_length(error: Float32Array) -> float:
    lengths = torch.linalg.vector_norm(torch.from_numpy(error).double(), dim=0).numpy()
    known = lengths[np.isfinite(lengths)]
    return float(np.median(known)) if known.size else math.nan
