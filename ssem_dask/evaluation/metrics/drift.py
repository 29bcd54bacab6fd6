"""Drift: slow wander of the alignment error along z.

drift(z) is the median over the section of |c_z - c_z0|, with z0 the middle section. The drift of a volume is its
maximum over z, in truth px. Three variants show its components:

- `affine_removed`: the affine map that fits c_z - c_z0 best is subtracted first.
- `trend_removed`: the linear trend of c_z along z is subtracted first at each node, b(z - z0) with b by least squares.
  Tilted tissue and a slow sum of random shifts look the same, so no method can avoid that part.
- `slope`: slope of log drift(z) against log |z - z0| by least squares, each distance averaged over both sides. It is
  0.5 for a random walk, 1 for a steady tilt, 0 for bounded drift; NaN for fewer than 3 distances or no drift.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import fit_affine
from ssem_dask.types import AnyArray, Float32Array, Float64Array

_MAX_NODES = 4096
"""Nodes that are kept per section: enough for the median of a smooth field, few enough for thousands of sections."""
_LEAST_DRIFT_PX = 1e-3
"""Drift below which no slope is computed."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift of a volume, truth px; NaN if nothing could be compared."""

    maximum: float
    affine_removed: float
    trend_removed: float
    slope: float
    z: tuple[int, ...] = ()
    """Compared sections."""
    lengths: tuple[float, ...] = ()
    """Drift of each section."""


class DriftMeter:
    """Accumulates drift section by section; keeps at most 4096 nodes of each."""

    def __init__(self) -> None:
        self._z: list[int] = []
        self._errors: list[Float32Array] = []
        self._positions: Float64Array | None = None

    def add(self, z: int, error: Tensor) -> None:
        """Add c_z `(2, y, x)` of the next section that is not missing."""
        step = max(1, math.ceil(math.sqrt(error[0].numel() / _MAX_NODES)))
        first = step // 2
        subsampled = error[:, first::step, first::step]
        if self._positions is None:
            y, x = torch.meshgrid(*(torch.arange(n) for n in subsampled.shape[1:]), indexing="ij")
            self._positions = torch.stack([y, x], dim=-1).reshape(-1, 2).double().numpy()
        self._z.append(z)
        self._errors.append(subsampled.reshape(2, -1).numpy().copy())

    def result(self) -> Drift:
        """Return the drift so far; z0 is the section in the middle of those added."""
        if len(self._z) < 2 or self._positions is None:
            return Drift(math.nan, math.nan, math.nan, math.nan)
        z = np.asarray(self._z, dtype=np.float64)
        errors = np.stack(self._errors)
        middle = len(z) // 2
        relative = errors - errors[middle]
        trend = _trend(errors, z=z)
        distance = (z - z[middle])[:, None, None]
        plain = np.array([_median_length(r) for r in relative])
        return Drift(
            maximum=_largest(plain),
            affine_removed=_largest([_median_length(_without_affine(r, self._positions)) for r in relative]),
            trend_removed=_largest([_median_length(r) for r in relative - distance * trend]),
            slope=_slope(plain, distance=np.abs(z - z[middle])),
            z=tuple(self._z),
            lengths=tuple(float(v) for v in plain),
        )


def _median_length(error: AnyArray) -> float:
    lengths = np.hypot(error[0], error[1])
    known = lengths[np.isfinite(lengths)]
    return float(np.median(known)) if known.size else math.nan


def _largest(values: AnyArray | list[float]) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.max()) if known.size else math.nan


def _without_affine(error: AnyArray, positions: Float64Array) -> AnyArray:
    known = np.isfinite(error).all(axis=0)
    if np.count_nonzero(known) < 3:
        return np.full_like(error, np.nan)
    points = positions[known]
    targets = error[:, known].T.astype(np.float64)
    affine = fit_affine(positions=points, targets=targets, weights=np.ones(len(points)))
    residual = np.full(error.shape, np.nan)
    residual[:, known] = (targets - points @ affine[:, :2].T - affine[:, 2]).T
    return residual


def _trend(errors: AnyArray, *, z: Float64Array) -> AnyArray:
    """Return the slope along z (2, nodes) of each node's error, by least squares over the sections that know it."""
    known = np.isfinite(errors).all(axis=1, keepdims=True)
    count = np.maximum(known.sum(axis=0), 1)
    weight = known.astype(np.float64)
    values = np.where(known, errors, 0.0)
    centred = (z[:, None, None] - (weight * z[:, None, None]).sum(axis=0) / count) * weight
    spread = (centred**2).sum(axis=0)
    return np.asarray((centred * values).sum(axis=0) / np.where(spread > 0, spread, np.inf))


def _slope(drift: AnyArray, *, distance: Float64Array) -> float:
    usable = np.isfinite(drift) & (distance > 0)
    distances = np.unique(distance[usable])
    means = np.array([drift[usable & (distance == d)].mean() for d in distances])
    if len(distances) < 3 or bool((means < _LEAST_DRIFT_PX).any()):
        return math.nan
    return float(np.polyfit(np.log(distances), np.log(means), 1)[0])
