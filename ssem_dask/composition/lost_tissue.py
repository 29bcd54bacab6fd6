"""Tissue that was lost between two slabs, from how alike their faces are.

Sections are the less alike the farther apart they are. How fast is seen within slabs, between neighbours at distances
1, 2, 3 …; so the likeness of two faces says how far apart they were. The logarithm of the correlation falls about
linearly from one distance to the next; beyond the largest distance that was compared, it is continued.

Nothing but their distance may make the faces different: what polishing or milling does to a face counts as tissue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssem_dask.composition.separation.slabs import crossing_pairs
from ssem_dask.types import Float64Array

_LEAST_LIKENESS = 0.02
_MOST_SECTIONS = 12.0
"""Sections beyond which nothing can be said: likeness has fallen to that of unrelated sections."""
_CERTAIN_SDS = 2.0
_LEAST_CERTAIN = 0.5


@dataclass(frozen=True, slots=True)
class LostTissue:
    """Thickness of what was lost."""

    sections: float
    """In sections, 0 or more."""
    sd: float
    """Standard deviation: how far sections within slabs would be misjudged in the same way."""

    @property
    def is_certain(self) -> bool:
        """Whether anything was lost, as far as likeness shows."""
        return self.sections >= max(_LEAST_CERTAIN, _CERTAIN_SDS * self.sd)


def lost_tissue(likeness: Float[Float64Array, "K Z"], borders: Sequence[int]) -> list[LostTissue | None]:
    """Return what was lost before each border; None if nothing can be said.

    Args:
        likeness: correlation of aligned sections z and z-k; NaN if there is none.
        borders: first section of each slab but the first.
    """
    steps, count = likeness.shape
    logs = np.log(np.clip(likeness, _LEAST_LIKENESS, None))
    logs[np.arange(count) < np.arange(1, steps + 1)[:, None]] = np.nan
    across = crossing_pairs(borders, steps=steps, count=count)
    within = [row[np.isfinite(row) & ~crosses] for row, crosses in zip(logs, across, strict=True)]
    curve = _decay([float(np.median(values)) for values in within if len(values)])
    if len(curve) < 2:
        return [None] * len(borders)
    misjudged = [_distances(values, curve) - k for k, values in enumerate(within[: len(curve)], start=1)]
    spread = [1.48 * float(np.median(np.abs(values))) for values in misjudged]
    return [_lost(logs, border, curve=curve, spread=spread) for border in borders]


def _decay(medians: Sequence[float]) -> list[float]:
    """Return the log likeness at distances 1, 2 …, as far as it falls."""
    curve = list(medians[:1])
    for value in medians[1:]:
        if value >= curve[-1]:
            break
        curve.append(value)
    return curve


def _distances(logs: Float64Array, curve: Sequence[float]) -> Float64Array:
    """Return the distances, in sections, at which likeness is expected to be what it is."""
    known = np.arange(1, len(curve) + 1, dtype=np.float64)
    inner = np.interp(-logs, -np.array(curve), known)
    first, last = curve[0] - curve[1], curve[-2] - curve[-1]
    beyond = known[-1] + (curve[-1] - logs) / last
    before = 1.0 - (logs - curve[0]) / first
    return np.asarray(np.where(logs < curve[-1], beyond, np.where(logs > curve[0], before, inner)))


def _lost(logs: Float64Array, border: int, *, curve: Sequence[float], spread: Sequence[float]) -> LostTissue | None:
    seen, sds = [], []
    for k in range(1, len(curve) + 1):
        values = logs[k - 1, border : border + k]
        values = values[np.isfinite(values)]
        seen.extend((_distances(values, curve) - k).tolist())
        sds.extend([spread[k - 1]] * len(values))
    if not seen:
        return None
    weights = 1.0 / (np.square(sds) + 0.01)
    lost = float(weights @ np.array(seen) / weights.sum())
    # The pairs across a border share its two faces, so their errors do not average out.
    return None if lost > _MOST_SECTIONS else LostTissue(round(max(lost, 0.0), 2), round(min(sds), 2))
