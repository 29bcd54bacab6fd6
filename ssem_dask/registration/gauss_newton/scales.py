"""What a pair's residuals, Hessians and confidences are measured in.

The robust weights of the solver are relative to a typical residual ē, its smoothness to a typical Hessian h̄, and
confidences to a typical one. Taken from each window they differ from window to window, and what is found on either
side of a border differs with them (docs/decisions/0022). So they are measured once, on a few sample windows.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ssem_dask.types import ConfigBase


class Scale(ConfigBase):
    """Of one Gauss-Newton iteration."""

    error: float = Field(gt=0)
    """ē: mean over a pair's valid px of the squared feature differences, summed over the channels."""
    hessian: float = Field(gt=0)
    """h̄: mean over them of ½ tr(w g gᵀ), per feature px of the level."""


class Scales(ConfigBase):
    """Of a run: the same for all of its windows."""

    cold: tuple[Scale, ...] = Field(min_length=1)
    """Of each iteration, in the order in which they are run, of pairs that start at 0."""
    warm: tuple[tuple[Scale, ...], ...] = ()
    """The same for the 2nd, 3rd, … predecessor, started from composed fields; the last holds for all farther."""
    confidence: float = Field(gt=0)
    """Median raw confidence of known nodes."""

    def of(self, *, distance: int, warm: bool, iterations: int) -> tuple[Scale, ...] | None:
        """Those of a pair's iterations; None where none were measured.

        Args:
            distance: of the two sections.
            warm: whether the pair starts from composed fields.
            iterations: that are run; where coarse levels are left out, fewer than there are scales.
        """
        if warm and not self.warm:
            return None
        found = self.warm[min(distance - 1, len(self.warm)) - 1] if warm else self.cold
        return found[len(found) - iterations :] if len(found) >= iterations else None

    @property
    def error(self) -> float:
        """ē of fields that were found."""
        return self.cold[-1].error


def typical(windows: Sequence[Scales]) -> Scales | None:
    """The median over windows that were run alike; None without any.

    Args:
        windows: of the same solver; some may lack far predecessors.
    """
    if not windows:
        return None
    reach = max(len(w.warm) for w in windows)
    return Scales(
        cold=_middle([w.cold for w in windows]),
        warm=tuple(_middle([w.warm[i] for w in windows if len(w.warm) > i]) for i in range(reach)),
        confidence=float(np.median([w.confidence for w in windows])),
    )


def _middle(found: Sequence[Sequence[Scale]]) -> tuple[Scale, ...]:
    longest = max(len(scales) for scales in found)
    alike = np.array([[[s.error, s.hessian] for s in scales] for scales in found if len(scales) == longest])
    return tuple(Scale(error=float(e), hessian=float(h)) for e, h in np.median(alike, axis=0))
