"""Measurements of all sections of a volume, and their usual values.

Usual values are medians and median absolute deviations over the sections nearby that have a place, so that they follow
slow changes along the volume and hardly depend on spoilt sections.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssem_dask.types import BoolArray, Float64Array, ShapeYX

NEARBY = 12
"""Sections before and after over which the usual value is taken."""
DEVIATIONS = 5.0
"""Robust standard deviations by which a named value differs from the usual one, at least."""
LEAST_LIKENESS = 0.05
"""Usual similarity below which neighbours do not resemble each other, so that it shows nothing."""
_MAD_TO_SIGMA = 1.4826
_LEAST_SECTIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionEvidence:
    """Measurements of all sections; NaN is unknown."""

    tissue: Float[Float64Array, " Z"]
    """Share of the section that shows tissue, of that part of it that the aligned section shows."""
    contrast: Float[Float64Array, " Z"]
    sharpness: Float[Float64Array, " Z"]
    structure: Float[Float64Array, " Z"]
    """See `diagnosis.section_appearance`."""
    likeness: Float[Float64Array, "3 Z"]
    """Correlation of the aligned sections z and z-k."""
    unlike: Float[Float64Array, " Z"]
    """Share of the section that is less similar to both neighbours than these are to each other."""
    dark: Float[Float64Array, " Z"]
    bright: Float[Float64Array, " Z"]
    empty: Float[Float64Array, " Z"]
    length: Float[Float64Array, " Z"]
    width: Float[Float64Array, " Z"]
    tone: Float[Float64Array, " Z"]
    """See `diagnosis.odd_regions`."""
    step: Float[Float64Array, " Z"]
    """See `diagnosis.steps`, px."""
    part_step: Float[Float64Array, " Z"]
    """Distance by which the second part of a broken section was moved against the first, px; NaN: it is whole."""
    uncertainty: Float[Float64Array, " Z"]
    """Median standard deviation of the section's field, px."""
    support: Float[Float64Array, "K Z"]
    """Mean confidence of the pair field z → z-k over all nodes; 0 where it is unknown."""
    affines: Float[Float64Array, "Z 2 3"]
    """Coarse affine, aligned → source, px."""
    misplaced: BoolArray
    repeated: BoolArray
    """Sections that the coarse stage found out of order, or with the image of an earlier one."""
    shape_yx: ShapeYX
    """Extent of a section, px."""

    @property
    def count(self) -> int:
        """Number of sections."""
        return len(self.tissue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The usual value of a measurement at each section, and its spread."""

    middle: Float64Array
    spread: float

    @classmethod
    def of(cls, values: Float64Array, *, trusted: BoolArray) -> "Level":
        """Return the level of some values `(Z,)`, from the trusted sections."""
        kept = np.where(trusted, values, np.nan)
        middle = _running_median(kept)
        deviations = np.abs(kept - middle)
        known = deviations[np.isfinite(deviations)]
        return cls(middle=middle, spread=_MAD_TO_SIGMA * float(np.median(known)) if known.size else math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsualValues:
    """Usual values of the measurements."""

    levels: Mapping[str, Level]
    upper: Mapping[str, Float64Array]
    """Upper deciles of the other sections nearby, for measurements whose scatter has a long tail."""
    likeness: Float64Array
    """Similarity to the most similar neighbour, relative to the usual one of that distance, `(Z,)`."""
    negative: Float64Array
    """Similarity to the least similar neighbour, relative to the usual one, `(Z,)`."""

    @classmethod
    def of(cls, evidence: SectionEvidence, *, placed: BoolArray) -> "UsualValues":
        """Return the usual values of all measurements, from the sections that have a place."""
        names = "contrast", "sharpness", "structure", "step", "uncertainty", "unlike", "dark", "bright", "empty"
        values = {name: np.asarray(getattr(evidence, name), dtype=np.float64) for name in names}
        # Ratios matter: a gain multiplies contrast and its scatter alike.
        values |= {name: _log(values[name]) for name in ("contrast", "sharpness")}
        values["spots"] = np.nansum([evidence.dark, evidence.bright, evidence.empty], axis=0)
        values["largest"] = evidence.length * evidence.width
        values |= affine_shapes(evidence)
        best, worst = _relative_likeness(evidence.likeness)
        levels = {name: Level.of(value, trusted=placed) for name, value in values.items()}
        tails = "spots", "largest", "unlike"
        upper = {name: _upper_of_others(np.where(placed, values[name], np.nan)) for name in tails}
        return cls(levels=levels, upper=upper, likeness=best, negative=worst)

    def differs(self, name: str, value: float, *, z: int, factor: float = 1.0) -> bool:
        """Return whether a value is outside the usual scatter, or a multiple of it."""
        level = self.levels[name]
        return bool(abs(value - level.middle[z]) > factor * DEVIATIONS * level.spread)


def _log(values: Float64Array) -> Float64Array:
    return np.log(np.maximum(values, 1e-6))


def affine_shapes(evidence: SectionEvidence) -> dict[str, Float64Array]:
    """Return scale, rotation (degrees) and shift (px) of the coarse affines."""
    linear = evidence.affines[:, :, :2]
    centre = np.asarray(evidence.shape_yx) / 2
    shift = linear @ centre + evidence.affines[:, :, 2] - centre
    rotation = np.degrees(np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1]))
    return {
        "scale": np.sqrt(np.abs(np.linalg.det(linear))),
        "rotation": rotation,
        "shift_y": shift[:, 0],
        "shift_x": shift[:, 1],
    }


def _relative_likeness(likeness: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the largest and the smallest similarity of each section, relative to the usual one of the distance."""
    count = likeness.shape[1]
    best, worst = np.full(count, np.nan), np.full(count, np.nan)
    for k, row in enumerate(likeness, start=1):
        known = row[np.isfinite(row)]
        usual = float(np.median(known)) if known.size else math.nan
        if not usual >= LEAST_LIKENESS:
            continue
        relative = row / usual
        for at, values in ((slice(k, None), relative[k:]), (slice(None, -k), relative[k:])):
            best[at] = np.fmax(best[at], values)
            worst[at] = np.fmin(worst[at], values)
    return best, worst


def _running_median(values: Float64Array) -> Float64Array:
    """Return the median of the known values nearby, `(Z,)`; NaN where there are too few."""
    return _running_quantile(values, 0.5)


def _running_quantile(values: Float64Array, share: float) -> Float64Array:
    quantiles = np.full(len(values), np.nan)
    for z in range(len(values)):
        near = values[max(0, z - NEARBY) : z + NEARBY + 1]
        known = near[np.isfinite(near)]
        if known.size >= min(_LEAST_SECTIONS, len(values)):
            quantiles[z] = np.quantile(known, share)
    return quantiles


def _upper_of_others(values: Float64Array) -> Float64Array:
    """Return the 90th percentile of the known values of the other sections nearby, `(Z,)`."""
    quantiles = np.full(len(values), np.nan)
    for z in range(len(values)):
        near = np.delete(values, z)[max(0, z - NEARBY) : z + NEARBY]
        known = near[np.isfinite(near)]
        if known.size:
            quantiles[z] = np.quantile(known, 0.9)
    return quantiles
