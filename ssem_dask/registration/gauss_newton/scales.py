"""Units of residuals, Hessians and confidences.

The robust weights of the solver are relative to a typical residual ē, its smoothness to a typical Hessian h̄, and
confidences to a typical confidence. Units taken from each window differ from window to window, and so would the fields
on either side of a border (docs/decisions/0022). They are therefore measured once, on a few sample windows.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ssem_dask.types import ConfigBase


class ResidualScale(ConfigBase):
    """Units of one Gauss-Newton iteration."""

    error: float = Field(gt=0)
    """ē: mean over a pair's valid px of the squared feature differences, summed over the channels."""
    hessian: float = Field(gt=0)
    """h̄: mean over the same px of ½ tr(w g gᵀ), per feature px of the level."""


class ResidualScales(ConfigBase):
    """Units of a run, the same for all of its windows."""

    cold: tuple[ResidualScale, ...] = Field(min_length=1)
    """Units of each iteration of pairs that start at 0, in the order in which iterations are run."""
    warm: tuple[tuple[ResidualScale, ...], ...] = ()
    """Units for the 2nd, 3rd, … predecessor, started from composed fields; the last holds for all farther ones."""
    confidence: float = Field(gt=0)
    """Median raw confidence of known nodes."""

    def select(self, *, distance: int, warm: bool, iterations: int) -> tuple[ResidualScale, ...] | None:
        """Return the units of a pair's iterations; None if none were measured.

        Args:
            distance: number of sections between the two.
            warm: whether the pair starts from composed fields.
            iterations: number of iterations that are run; fewer than there are units if coarse levels are left out.
        """
        if warm and not self.warm:
            return None
        scales = self.warm[min(distance - 1, len(self.warm)) - 1] if warm else self.cold
        # Coarse levels come first, so the units of the iterations that are run are the last ones.
        return scales[len(scales) - iterations :] if len(scales) >= iterations else None

    @property
    def error(self) -> float:
        """ē of converged fields."""
        return self.cold[-1].error


def median_scales(windows: Sequence[ResidualScales]) -> ResidualScales | None:
    """Take the median over windows; None without any.

    Args:
        windows: units measured with the same solver; some may lack far predecessors.
    """
    if not windows:
        return None
    predecessors = max(len(w.warm) for w in windows)
    return ResidualScales(
        cold=_median([w.cold for w in windows]),
        warm=tuple(_median([w.warm[i] for w in windows if len(w.warm) > i]) for i in range(predecessors)),
        confidence=float(np.median([w.confidence for w in windows])),
    )


def _median(windows: Sequence[Sequence[ResidualScale]]) -> tuple[ResidualScale, ...]:
    # Small windows leave out coarse levels; only windows that ran all iterations can be compared.
    longest = max(len(scales) for scales in windows)
    complete = np.array([[[s.error, s.hessian] for s in scales] for scales in windows if len(scales) == longest])
    return tuple(ResidualScale(error=float(e), hessian=float(h)) for e, h in np.median(complete, axis=0))
