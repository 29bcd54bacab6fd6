"""Folds and cracks: damage that moves tissue, with the displacement known exactly.

Both run along a slightly wavy line. Across it, at signed distance t from the line, the tear moves tissue along the
line's normal n. With w the local width of the band |t| <= w/2 that it covers:

- fold: the sheet lies on itself in a Z. The band shows the product of three layers of tissue, those that lay at t - w,
  -t and t + w before; beside it tissue is drawn together: the pull displacement is ±w·exp(-(|t| - w/2)/L) n.
- crack: tissue is pushed apart and the band is an empty, bright gap; beside it the pull displacement is
  ∓w/2·exp(-(|t| - w/2)/L) n.

So the displacement jumps by 2w across a fold and by -w across a crack, and relaxes over the length L.
Inside the band truth is unknown, NaN (C8).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssem_dask.types import PointYX, ShapeYX

_TRACE = 0.5  # px; where the band is narrower than this nothing is torn
_SAFETY = 2.0  # px beside the band that evaluation leaves out: its soft edge


@dataclass(frozen=True, slots=True)
class Tear:
    """One fold or crack."""

    kind: Literal["fold", "crack"]
    centre: PointYX
    """A point on the line, mip-0 px."""
    angle: float
    """Direction of the normal, radians from the y axis towards x."""
    width: float
    """Widest width of the band, px."""
    half_length: float
    """px from the centre to where the tear ends, along the line."""
    wave: tuple[float, float, float]
    """Amplitude and wavelength (px) and phase of the line's waviness."""
    relaxation: float
    """L: px over which the displacement fades beside the band."""

    def widths(self, positions: Tensor) -> Tensor:
        """Local width of the band at the height of `positions` along the line, px; 0 beyond the tear's ends."""
        reach = (self._along(positions) / self.half_length).abs().clamp(max=1.0)
        # Blunt in the middle and smooth at the tips, so that the width never bends the tissue sharply.
        return self.width * (1.0 - reach**4) ** 2

    def distances(self, positions: Tensor) -> Tensor:
        """Signed distance t of `positions` `(2, …)` from the line, along the normal, px."""
        amplitude, wavelength, phase = self.wave
        wave = amplitude * torch.sin(self._along(positions) * (2 * np.pi / wavelength) + phase)
        return self._offset(positions, self.normal) - wave

    def inside(self, positions: Tensor, *, margin: float = 0.0) -> Tensor:
        """Whether `positions` lie in the band, or within `margin` px of it."""
        widths = self.widths(positions)
        return (self.distances(positions).abs() <= widths / 2 + margin) & (widths > _TRACE)

    def excluded(self, positions: Tensor) -> Tensor:
        """Whether evaluation leaves `positions` out."""
        return self.inside(positions, margin=_SAFETY)

    def coverage(self, positions: Tensor) -> Tensor:
        """How much of a pixel at `positions` the band covers, 0 to 1, with an edge of one pixel."""
        widths = self.widths(positions)
        covered = (widths / 2 - self.distances(positions).abs() + 0.5).clamp(0.0, 1.0)
        return torch.where(widths > _TRACE, covered, torch.zeros_like(covered))

    def displacement(self, positions: Tensor) -> Tensor:
        """Pull displacement `(2, …)` from the torn to the whole section, px; inside the band it is that of its edge.

        Use `inside` to tell where it is known.
        """
        t, widths = self.distances(positions), self.widths(positions)
        fading = torch.exp(-(t.abs() - widths / 2).clamp(min=0.0) / self.relaxation)
        jump = widths if self.kind == "fold" else -widths / 2
        return self._along_normal(torch.where(t >= 0, 1.0, -1.0) * jump * fading)

    def layers(self, positions: Tensor) -> list[Tensor]:
        """Displacements `(2, …)` to the three layers of tissue that lie over each other inside a fold."""
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
        kind: what tears.
        width: typical width of the band, px; drawn between 0.6 and 1.4 of it.
        shape_yx: mip-0 px of the section.
        generator: source of randomness.
    """
    shorter = min(shape_yx)
    centre_y, centre_x = generator.uniform(0.25, 0.75, size=2)
    drawn = float(width * generator.uniform(0.6, 1.4))
    relaxation = max(0.5 * shorter, 4.0 * drawn)  # a displacement that fades faster than its size would fold the tissue
    return Tear(
        kind=kind,
        centre=(float(centre_y) * shape_yx[0], float(centre_x) * shape_yx[1]),
        angle=float(generator.uniform(-np.pi, np.pi)),
        width=drawn,
        half_length=float(shorter * generator.uniform(0.5, 1.2)),
        wave=(
            float(shorter * generator.uniform(0.01, 0.03)),
            float(shorter * generator.uniform(0.4, 0.9)),
            float(generator.uniform(0.0, 2 * np.pi)),
        ),
        relaxation=relaxation,
    )
