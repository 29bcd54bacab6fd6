"""Dust, stain and contrast: damage that changes what is seen without moving tissue.

Intensities are relative here: 0 is the section's dark end, 1 its bright end (see `observe.IntensityScale`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.types import PointYX, ShapeYX

_OPAQUE = 0.01  # a pixel that dust covers by more than this carries no tissue
_DARKENED = 0.35  # nor does one of which a stain lets less than this share of the light through


@dataclass(frozen=True, slots=True)
class Blot:
    """A round patch with an uneven outline."""

    centre: PointYX
    """mip-0 px."""
    radius: float
    """Mean radius, px."""
    outline: tuple[tuple[float, float], ...]
    """Amplitude (of the radius) and phase of the outline's harmonics 2, 3, 4 …"""
    stretch: float
    """Aspect ratio along the first axis."""

    def reach(self, positions: Tensor) -> Tensor:
        """Distance from the centre as a share of the outline's radius in that direction: 1 on the outline."""
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
        """The relative intensities with the damage on them, and where no tissue is left to see."""
        hidden = torch.zeros_like(tissue, dtype=torch.bool)
        for grain, dark in zip(self.grains, self.darkness, strict=True):
            reach = grain.reach(positions)
            cover = torch.sigmoid((1.0 - reach) * grain.radius / 0.8)  # an edge of about 2 px
            # Grains catch some light on one side and lie over darker tissue at their rim.
            tone = dark + 0.06 * torch.cos(3.0 * reach)
            tissue = tissue * (1.0 - cover) + tone * cover
            hidden |= cover > _OPAQUE
        return tissue, hidden


@dataclass(frozen=True, slots=True)
class Stain:
    """A smooth dark precipitate that lets some light through."""

    patches: tuple[Blot, ...]
    density: float
    """Optical density in the middle."""

    def paint(self, tissue: Tensor, *, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The relative intensities with the damage on them, and where no tissue is left to see."""
        density = torch.zeros_like(tissue)
        for patch in self.patches:
            density = torch.maximum(density, torch.exp(-1.2 * patch.reach(positions) ** 3))
        through = torch.exp(-self.density * density)
        return tissue * through, through < _DARKENED


@dataclass(frozen=True, slots=True)
class ContrastChange:
    """Another gain, offset and gamma for the whole section, as a thicker section or another exposure has."""

    gain: float
    offset: float
    gamma: float

    def paint(self, tissue: Tensor, *, positions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The relative intensities with the damage on them; no tissue is hidden."""
        changed = tissue.clamp(min=0.0) ** self.gamma * self.gain + self.offset
        return changed, torch.zeros_like(tissue, dtype=torch.bool)


def _draw_blot(*, centre: PointYX, radius: float, roughness: float, generator: np.random.Generator) -> Blot:
    orders = range(2, 7)
    outline = tuple(
        (float(generator.normal() * roughness / order), float(generator.uniform(0, 2 * np.pi))) for order in orders
    )
    return Blot(centre=centre, radius=radius, outline=outline, stretch=float(generator.uniform(0.8, 1.25)))


def draw_dust(*, radius: float, shape_yx: ShapeYX, generator: np.random.Generator) -> Dust:
    """A handful of grains with radii between a third of `radius` and `radius`, px."""
    count = int(generator.integers(4, 10))
    grains = []
    for _ in range(count):
        y, x = generator.uniform(0.03, 0.97, size=2)
        size = radius * float(generator.uniform(0.33, 1.0))
        centre = (float(y) * shape_yx[0], float(x) * shape_yx[1])
        grains.append(_draw_blot(centre=centre, radius=size, roughness=0.2, generator=generator))
    return Dust(grains=tuple(grains), darkness=tuple(float(v) for v in generator.uniform(0.02, 0.15, size=count)))


def draw_stain(*, radius: float, shape_yx: ShapeYX, generator: np.random.Generator) -> Stain:
    """One stain of about `radius` px: a few patches that overlap."""
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
    """Gain 0.45-0.8 or 1.15-1.4, offset within ±0.15, gamma 0.6-1.7."""
    gain = generator.uniform(0.45, 0.8) if generator.random() < 0.6 else generator.uniform(1.15, 1.4)
    offset = generator.uniform(-0.1, 0.15)
    return ContrastChange(gain=float(gain), offset=float(offset), gamma=float(np.exp(generator.uniform(-0.5, 0.5))))
