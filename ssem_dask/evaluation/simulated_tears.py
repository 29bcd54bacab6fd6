"""Folds and cracks: damage that moves tissue, with the displacement known exactly.

Both run along a slightly wavy line. Across it, at signed distance t from the line, the tear moves tissue along the
line's normal n. With w the local width of the band |t| <= w/2 that it covers:

- fold: the sheet is folded over itself like a Z. The band shows the product of three layers of tissue, which came from
  t - w, -t and t + w. Beside the band, tissue is drawn together: the pull displacement is ±w·exp(-(|t| - w/2)/L) n.
- crack: tissue is pushed apart, and the band is an empty, bright gap. Beside the band the pull displacement is
  ∓w/2·exp(-(|t| - w/2)/L) n.

So the displacement jumps by 2w across a fold and by -w across a crack, and decays over the length L.
Inside the band the truth is unknown, NaN (C8).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssem_dask.types import PointYX, ShapeYX

_LEAST_WIDTH_PX = 0.5
"""Width below which a band tears nothing."""
_EXCLUDED_MARGIN_PX = 2.0
"""Margin beside the band that evaluation ignores: its soft edge."""


@dataclass(frozen=True, slots=True)
class Tear:
    """One fold or crack."""

    kind: Literal["fold", "crack"]
    centre: PointYX
    """A point on the line, mip-0 px."""
    angle: float
    """Direction of the normal, radians from the y axis towards x."""
    width: float
    """Largest width of the band, px."""
    half_length: float
    """Distance from the centre to the ends of the tear along the line, px."""
    wave: tuple[float, float, float]
    """Amplitude and wavelength (px) and phase of the line's waviness."""
    relaxation: float
    """Decay length L of the displacement beside the band, px."""

    def widths(self, positions: Tensor) -> Tensor:
        """Return the local width of the band at `positions`, px; 0 beyond the ends of the tear."""
        reach = (self._along(positions) / self.half_length).abs().clamp(max=1.0)
        # Nearly constant in the middle and smooth at the tips, so that the tissue is never bent sharply.
        return self.width * (1.0 - reach**4) ** 2

    def distances(self, positions: Tensor) -> Tensor:
        """Return the signed distance t of `positions` `(2, …)` from the line, along the normal, px."""
        amplitude, wavelength, phase = self.wave
        wave = amplitude * torch.sin(self._along(positions) * (2 * np.pi / wavelength) + phase)
        return self._offset(positions, self.normal) - wave

    def inside(self, positions: Tensor, *, margin: float = 0.0) -> Tensor:
        """Return whether `positions` are in the band, or within `margin` px of it."""
        widths = self.widths(positions)
        return (self.distances(positions).abs() <= widths / 2 + margin) & (widths > _LEAST_WIDTH_PX)

    def excluded(self, positions: Tensor) -> Tensor:
        """Return whether evaluation ignores `positions`."""
        return self.inside(positions, margin=_EXCLUDED_MARGIN_PX)

    def coverage(self, positions: Tensor) -> Tensor:
        """Return the share of a pixel at `positions` that the band covers, with an edge of one pixel."""
        widths = self.widths(positions)
        covered = (widths / 2 - self.distances(positions).abs() + 0.5).clamp(0.0, 1.0)
        return torch.where(widths > _LEAST_WIDTH_PX, covered, torch.zeros_like(covered))

    def displacement(self, positions: Tensor) -> Tensor:
        """Return the pull displacement `(2, …)` from the torn to the whole section, px.

        Inside the band it is that of the edge; `inside` says at which positions it is unknown.
        """
        t, widths = self.distances(positions), self.widths(positions)
        decay = torch.exp(-(t.abs() - widths / 2).clamp(min=0.0) / self.relaxation)
        jump = widths if self.kind == "fold" else -widths / 2
        return self._along_normal(torch.where(t >= 0, 1.0, -1.0) * jump * decay)

    def layers(self, positions: Tensor) -> list[Tensor]:
        """Return the displacements `(2, …)` to the three layers of tissue inside a fold."""
        t, widths = self.distances(positions), self.widths(positions)
        return [self._along_normal(-widths), self._along_normal(-2 * t), self._along_normal(widths)]

    @property
    def normal(self) -> PointYX:
        """Unit normal (y, x)."""
        return float(np.cos(self.angle)), float(np.sin(self.angle))

    def _along(self, positions: Tensor) -> Tensor:
        return self._offset(positions, (-self.normal[1], self.normal[0]))

    def _offset(self, positions: Tensor, direction: PointYX) -> Tensor:
        y, x = positions[0] - self.centre[0], positions[1] - self.centre[1]
        return y * direction[0] + x * direction[1]

    def _along_normal(self, length: Tensor) -> Tensor:
        return torch.stack([length * self.normal[0], length * self.normal[1]])


def draw_tear(
    kind: Literal["fold", "crack"], *, width: float, shape_yx: ShapeYX, generator: np.random.Generator
) -> Tear:
    """Draw a tear somewhere in the inner part of a section.

    Args:
        kind: kind of tear.
        width: typical width of the band, px; the width is drawn between 0.6 and 1.4 of it.
        shape_yx: extent (y, x) of the section, mip-0 px.
        generator: source of randomness.
    """
    shorter = min(shape_yx)
    centre_y, centre_x = generator.uniform(0.25, 0.75, size=2)
    band_width = float(width * generator.uniform(0.6, 1.4))
    relaxation = max(0.5 * shorter, 4.0 * band_width)  # a faster decay would fold the tissue
    return Tear(
        kind=kind,
        centre=(float(centre_y) * shape_yx[0], float(centre_x) * shape_yx[1]),
        angle=float(generator.uniform(-np.pi, np.pi)),
        width=band_width,
        half_length=float(shorter * generator.uniform(0.5, 1.2)),
        wave=(
            float(shorter * generator.uniform(0.01, 0.03)),
            float(shorter * generator.uniform(0.4, 0.9)),
            float(generator.uniform(0.0, 2 * np.pi)),
        ),
        relaxation=relaxation,
    )
