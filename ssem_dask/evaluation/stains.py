"""Dust, stain and contrast: damage that changes intensities without moving tissue.

Intensities are relative here: 0 is the section's dark end, 1 its bright end (see `observation.IntensityScale`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.types import PointYX, ShapeYX

_OPAQUE_COVER = 0.01
"""Cover by dust above which a pixel counts as hidden."""
_LEAST_TRANSMISSION = 0.35
"""Share of the light that a stain transmits, below which a pixel counts as hidden."""


@dataclass(frozen=True, slots=True)
class Blot:
    """A round patch with an uneven outline."""

    centre: PointYX
    """mip-0 px."""
    radius: float
    """Mean radius, px."""
    outline: tuple[tuple[float, float], ...]
    """Amplitude (as a share of the radius) and phase of the outline's harmonics 2, 3, 4 …"""
    stretch: float
    """Aspect ratio along the first axis."""

    def relative_distance(self, positions: Tensor) -> Tensor:
        """Return the distance from the centre relative to the outline's radius in that direction: 1 on the outline."""
        y = (positions[0] - self.centre[0]) / self.stretch
        x = (positions[1] - self.centre[1]) * self.stretch
        angle = torch.atan2(y, x)
        radius = torch.full_like(angle, self.radius)
        for order, (amplitude, phase) in enumerate(self.outline, start=2):
            radius = radius + self.radius * amplitude * torch.cos(order * angle + phase)
        return torch.hypot(y, x) / radius


@dataclass(frozen=True, slots=True)
class Dust:
    """Opaque dark grains on the section."""

    grains: tuple[Blot, ...]
    darkness: tuple[float, ...]
    """Relative intensity of each grain."""

    def paint(self, tissue: Tensor, *, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return relative intensities with the damage painted on them, and which pixels hide the tissue."""
        hidden = torch.zeros_like(tissue, dtype=torch.bool)
        for grain, dark in zip(self.grains, self.darkness, strict=True):
            distance = grain.relative_distance(positions)
            cover = torch.sigmoid((1.0 - distance) * grain.radius / 0.8)  # an edge of about 2 px
            # Grains reflect some light on one side, and the tissue under their rim is darker.
            tone = dark + 0.06 * torch.cos(3.0 * distance)
            tissue = tissue * (1.0 - cover) + tone * cover
            hidden |= cover > _OPAQUE_COVER
        return tissue, hidden


@dataclass(frozen=True, slots=True)
class Stain:
    """A smooth dark precipitate that transmits some light."""

    patches: tuple[Blot, ...]
    density: float
    """Optical density in the middle."""

    def paint(self, tissue: Tensor, *, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return relative intensities with the damage painted on them, and which pixels hide the tissue."""
        density = torch.zeros_like(tissue)
        for patch in self.patches:
            density = torch.maximum(density, torch.exp(-1.2 * patch.relative_distance(positions) ** 3))
        transmission = torch.exp(-self.density * density)  # Beer-Lambert law
        return tissue * transmission, transmission < _LEAST_TRANSMISSION


@dataclass(frozen=True, slots=True)
class ContrastChange:
    """Gain, offset and gamma of the whole section, as caused by its thickness or by exposure."""

    gain: float
    offset: float
    gamma: float

    def paint(self, tissue: Tensor, *, positions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the changed relative intensities; no tissue is hidden."""
        changed = tissue.clamp(min=0.0) ** self.gamma * self.gain + self.offset
        return changed, torch.zeros_like(tissue, dtype=torch.bool)


def _draw_blot(*, centre: PointYX, radius: float, roughness: float, generator: np.random.Generator) -> Blot:
    orders = range(2, 7)
    outline = tuple(
        (float(generator.normal() * roughness / order), float(generator.uniform(0, 2 * np.pi))) for order in orders
    )
    return Blot(centre=centre, radius=radius, outline=outline, stretch=float(generator.uniform(0.8, 1.25)))


def draw_dust(*, radius: float, shape_yx: ShapeYX, generator: np.random.Generator) -> Dust:
    """Draw a few grains with radii between a third of `radius` and `radius`, px."""
    count = int(generator.integers(4, 10))
    grains = []
    for _ in range(count):
        y, x = generator.uniform(0.03, 0.97, size=2)
        size = radius * float(generator.uniform(0.33, 1.0))
        centre = (float(y) * shape_yx[0], float(x) * shape_yx[1])
        grains.append(_draw_blot(centre=centre, radius=size, roughness=0.2, generator=generator))
    return Dust(grains=tuple(grains), darkness=tuple(float(v) for v in generator.uniform(0.02, 0.15, size=count)))


def draw_stain(*, radius: float, shape_yx: ShapeYX, generator: np.random.Generator) -> Stain:
    """Draw one stain of about `radius` px: a few overlapping patches."""
    y, x = generator.uniform(0.2, 0.8, size=2)
    centre = (float(y) * shape_yx[0], float(x) * shape_yx[1])
    patches = []
    for _ in range(int(generator.integers(2, 5))):
        dy, dx = generator.normal(size=2) * radius * 0.5
        size = radius * float(generator.uniform(0.6, 1.1))
        middle = (centre[0] + float(dy), centre[1] + float(dx))
        patches.append(_draw_blot(centre=middle, radius=size, roughness=0.15, generator=generator))
    return Stain(patches=tuple(patches), density=float(generator.uniform(0.7, 1.8)))


def draw_contrast_change(*, generator: np.random.Generator) -> ContrastChange:
    """Draw a gain of 0.45 to 0.8 or 1.15 to 1.4, an offset of -0.1 to 0.15, and a gamma of 0.6 to 1.65."""
    gain = generator.uniform(0.45, 0.8) if generator.random() < 0.6 else generator.uniform(1.15, 1.4)
    offset = generator.uniform(-0.1, 0.15)
    return ContrastChange(gain=float(gain), offset=float(offset), gamma=float(np.exp(generator.uniform(-0.5, 0.5))))
