"""Damage of sections: which sections and which kind; random but reproducible.

Law: the plan depends on (config, seed, number of sections) alone, and the damage of a section on (config, seed, z,
shape) alone.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from pydantic import Field

from ssem_dask.errors import ConfigError
from ssem_dask.evaluation.simulated_tears import Tear, draw_tear
from ssem_dask.evaluation.stains import ContrastChange, Dust, Stain, draw_contrast_change, draw_dust, draw_stain
from ssem_dask.types import ConfigBase, ShapeYX

DamageKind: TypeAlias = Literal["fold", "crack", "dust", "stain", "contrast", "blank", "missing"]

ABSENT: Final[frozenset[DamageKind]] = frozenset({"blank", "missing"})
"""Kinds that leave no tissue: the truth has no field for the section, and the section has no neighbours."""

_DAMAGE_STREAM: Final = 2
"""Random stream of the damage of a section, different from that of the deformation."""
_PLAN_STREAM: Final = 3
"""Random stream of the choice of sections."""


class DamageConfig(ConfigBase):
    """Kinds and extent of damage; all lengths in mip-0 px."""

    fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the sections that are damaged, beside the missing ones; rounded to whole sections."""
    kinds: tuple[DamageKind, ...] = Field(default=("fold", "crack", "dust", "stain", "contrast"), min_length=1)
    """Kinds of damage; each damaged section gets one, and every kind is used before any is used twice."""
    missing: tuple[int, ...] = ()
    """List of z of sections that are lost entirely."""
    blank: tuple[int, ...] = ()
    """List of z of sections that were imaged but show no tissue."""
    fold_width: float = Field(default=14.0, gt=0.0, le=40.0)
    """Typical width of a fold's dark band, px; it contains three times as much tissue."""
    crack_width: float = Field(default=24.0, gt=0.0, le=120.0)
    """Typical width of a crack at its widest point, px."""
    dust_radius: float = Field(default=24.0, gt=0.0)
    """Radius of the largest grains, px."""
    stain_radius: float = Field(default=70.0, gt=0.0)
    """Typical radius of a stain, px."""


@dataclass(frozen=True, slots=True)
class SectionDamage:
    """The damage of one section."""

    kind: DamageKind
    tear: Tear | None = None
    paint: Dust | Stain | ContrastChange | None = None

    @property
    def absent(self) -> bool:
        """Whether no tissue is left."""
        return self.kind in ABSENT


def plan_damage(config: DamageConfig, *, seed: int, sections: int) -> dict[int, DamageKind]:
    """Choose the damaged sections: kind by z, sorted by z.

    Raises:
        ConfigError: a listed z is outside the volume.
    """
    for key, listed in (("missing", config.missing), ("blank", config.blank)):
        outside = [z for z in listed if not 0 <= z < sections]
        if outside:
            raise ConfigError(
                f"damage.{key}: section {outside[0]} is not in the volume of {sections} sections; "
                f"give z from 0 to {sections - 1}."
            )
    plan: dict[int, DamageKind] = {}
    plan.update((z, "blank") for z in config.blank)
    plan.update((z, "missing") for z in config.missing)
    generator = np.random.default_rng([seed, _PLAN_STREAM])
    undamaged = [z for z in range(sections) if z not in plan]
    count = min(round(config.fraction * sections), len(undamaged))
    chosen = generator.permutation(undamaged)[:count]
    order = generator.permutation(len(config.kinds))
    for i, z in enumerate(chosen):
        plan[int(z)] = config.kinds[int(order[i % len(order)])]
    return dict(sorted(plan.items()))


def draw_damage(kind: DamageKind, *, config: DamageConfig, seed: int, z: int, shape_yx: ShapeYX) -> SectionDamage:
    """Draw the damage of section z; tears and patches that are too large for a small section are reduced."""
    generator = np.random.default_rng([seed, _DAMAGE_STREAM, z])
    shorter = min(shape_yx)
    match kind:
        case "fold":
            width = min(config.fold_width, 0.06 * shorter)
            return SectionDamage(kind, tear=draw_tear("fold", width=width, shape_yx=shape_yx, generator=generator))
        case "crack":
            width = min(config.crack_width, 0.1 * shorter)
            return SectionDamage(kind, tear=draw_tear("crack", width=width, shape_yx=shape_yx, generator=generator))
        case "dust":
            radius = min(config.dust_radius, 0.08 * shorter)
            return SectionDamage(kind, paint=draw_dust(radius=radius, shape_yx=shape_yx, generator=generator))
        case "stain":
            radius = min(config.stain_radius, 0.25 * shorter)
            return SectionDamage(kind, paint=draw_stain(radius=radius, shape_yx=shape_yx, generator=generator))
        case "contrast":
            return SectionDamage(kind, paint=draw_contrast_change(generator=generator))
        case "blank" | "missing":
            return SectionDamage(kind)
