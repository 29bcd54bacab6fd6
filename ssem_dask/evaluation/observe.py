"""What is observed of a section once it was deformed and damaged, and the exact truth about it.

With deformation d and, where the section is torn, the tear's displacement e (both pull), the observed section shows
observed(p) = truth(p + e(p) + d(p + e(p))), so that the truth field is compose(outer=d, inner=e) (C6), taken from the
formulas and not from samples of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.evaluation.deformation import Deformation
from ssem_dask.evaluation.simulated_damage import SectionDamage
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.types import AnyArray, BoolArray, ShapeYX

_STRIP = 1 << 22  # pixels worked on at once: bounds the memory that positions and spline weights take
_GAP = 0.97  # relative intensity of resin in a crack, and of a blank section
_RESIN_LAYER = 0.8  # share of the light that one more layer lets through where it shows no structure
_GRAIN = 0.012  # rms noise of empty resin, relative


@dataclass(frozen=True, slots=True)
class IntensityScale:
    """The dark and the bright end of a section, in its own intensity unit."""

    dark: float
    bright: float

    @classmethod
    def of(cls, image: AnyArray) -> "IntensityScale":
        """The 0.5th and 99.5th percentile of the pixels that are not 0."""
        shown = image[image != 0]
        if shown.size == 0:
            return cls(0.0, 1.0)
        dark, bright = np.percentile(shown, [0.5, 99.5])
        return cls(float(dark), float(bright) if bright > dark else float(dark) + 1.0)

    def relative(self, values: Tensor) -> Tensor:
        """Intensities with 0 at the dark and 1 at the bright end."""
        return (values - self.dark) / (self.bright - self.dark)

    def absolute(self, values: Tensor) -> Tensor:
        """The inverse of `relative`."""
        return values * (self.bright - self.dark) + self.dark


@dataclass(frozen=True, slots=True)
class ObservedSection:
    """One section as it comes from the microscope, with what is known about it."""

    image: AnyArray
    """(y, x), dtype of the source; 0 where the source does not reach."""
    damage: BoolArray
    """(y, x), True where evaluation must not look."""
    labels: AnyArray | None
    """(y, x) in the observed frame; 0 where there is no tissue."""


def truth_field(*, deformation: Deformation, damage: SectionDamage | None, grid: Grid) -> Tensor:
    """The field d_z `(2, y, x)`, observed → truth, on `grid`; NaN inside folds and cracks and of absent sections."""
    positions = grid.positions()
    if damage is not None and damage.absent:
        return torch.full_like(positions, torch.nan)
    if damage is None or damage.tear is None:
        return deformation.at(positions)
    torn = damage.tear.displacement(positions)
    field = torn + deformation.at(positions + torn)
    return torch.where(damage.tear.inside(positions), torch.full_like(field, torch.nan), field)


def observe(
    image: AnyArray,
    *,
    labels: AnyArray | None,
    deformation: Deformation,
    damage: SectionDamage | None,
    noise: np.random.Generator,
) -> ObservedSection:
    """Deform and damage one section.

    Args:
        image: (y, x) uint8 or uint16, the section in the truth frame.
        labels: (y, x) integers in the truth frame, or None.
        deformation: of this section.
        damage: of this section, or None.
        noise: for the grain of empty resin.
    """
    shape: ShapeYX = (image.shape[0], image.shape[1])
    scale = IntensityScale.of(image)
    seen = np.zeros_like(image)
    excluded = np.zeros(shape, dtype=bool)
    seen_labels = None if labels is None else np.zeros_like(labels)
    if damage is not None and damage.absent:
        if damage.kind == "blank":
            seen[...] = _to_dtype(scale.absolute(_resin(shape, noise)), image)
        return ObservedSection(seen, np.ones(shape, dtype=bool), seen_labels)

    source = torch.from_numpy(image.astype(np.float32))[None]
    rows = max(1, _STRIP // shape[1])
    for top in range(0, shape[0], rows):
        strip = slice(top, min(top + rows, shape[0]))
        grid = Grid((strip.stop - strip.start, shape[1]), 1.0, (float(top), 0.0))
        values, hidden, where = _observe_strip(
            source, grid=grid, scale=scale, deformation=deformation, damage=damage, noise=noise
        )
        seen[strip] = _to_dtype(values, image)
        excluded[strip] = hidden.numpy()
        if labels is not None and seen_labels is not None:
            seen_labels[strip] = np.where(hidden_by_tear(damage, grid), 0, nearest_labels(labels, positions=where))
    return ObservedSection(seen, excluded, seen_labels)


def nearest_labels(labels: AnyArray, *, positions: Tensor) -> AnyArray:
    """Labels (y, x) of the pixels that hold `positions` `(2, …)`; 0 outside. Exact for ids of any size."""
    height, width = labels.shape
    # Beyond ±2^31 px an index would wrap around; NaN lands outside as well.
    index = torch.nan_to_num(positions, nan=-1.0).floor().clamp(-1, 2**30).long().numpy()
    inside = (index[0] >= 0) & (index[0] < height) & (index[1] >= 0) & (index[1] < width)
    y, x = np.where(inside, index[0], 0), np.where(inside, index[1], 0)
    return np.asarray(np.where(inside, labels[y, x], 0)).astype(labels.dtype, copy=False)


def hidden_by_tear(damage: SectionDamage | None, grid: Grid) -> BoolArray:
    """Where (y, x) a tear leaves no single layer of tissue to label."""
    if damage is None or damage.tear is None:
        return np.zeros(grid.shape, dtype=bool)
    return np.asarray(damage.tear.inside(grid.positions()).numpy(), dtype=bool)


def _observe_strip(
    source: Tensor,
    *,
    grid: Grid,
    scale: IntensityScale,
    deformation: Deformation,
    damage: SectionDamage | None,
    noise: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Intensities (y, x), where they must not be looked at, and the truth positions (2, y, x)."""
    positions = grid.positions()
    pixels = Grid((source.shape[1], source.shape[2]), 1.0)

    def seen_at(places: Tensor) -> tuple[Tensor, Tensor]:
        """Relative intensities of the truth at `places` `(2, y, x)`, and whether it reaches there."""
        values, mask = sample_image(source, grid=pixels, positions=places, kind="bicubic")
        return scale.relative(values[0]), mask

    tear = None if damage is None else damage.tear
    torn = positions if tear is None else positions + tear.displacement(positions)
    where = torn + deformation.at(torn)
    tissue, reached = seen_at(where)
    hidden = torch.zeros_like(reached)
    if tear is not None:
        cover = tear.coverage(positions)
        if tear.kind == "fold":
            # Three layers absorb one after the other, and so do the two extra layers of resin.
            band = torch.full_like(tissue, _RESIN_LAYER**2)
            for layer in tear.layers(positions):
                place = positions + layer
                band = band * seen_at(place + deformation.at(place))[0].clamp(0.0, 1.0)
        else:
            band = _resin(grid.shape, noise)
            reached |= cover > 0.5  # the gap shows resin, also where the source ends
        tissue = tissue * (1.0 - cover) + band * cover
        hidden |= tear.excluded(positions)
    if damage is not None and damage.paint is not None:
        tissue, covered = damage.paint.paint(tissue, positions=positions)
        hidden |= covered
    values = torch.where(reached, scale.absolute(tissue), torch.zeros_like(tissue))
    return values, hidden, where


def _resin(shape: ShapeYX, noise: np.random.Generator) -> Tensor:
    """Empty resin, relative intensities (y, x)."""
    grain = torch.from_numpy(noise.standard_normal(shape, dtype=np.float32))
    return _GAP + _GRAIN * grain


def _to_dtype(values: Tensor, like: AnyArray) -> AnyArray:
    limits = np.iinfo(like.dtype)
    return values.round().clamp(limits.min, limits.max).numpy().astype(like.dtype)
