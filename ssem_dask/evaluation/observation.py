"""Observation of a section that was deformed and damaged, and the exact truth about it.

Let d be the deformation and e the displacement of the tear, if there is one (both pull). The observed section is
observed(p) = truth(p + e(p) + d(p + e(p))), so the truth field is compose(outer=d, inner=e) (C6). It is computed from
the formulas, not from samples of them.
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

_STRIP_PX = 1 << 22
"""Pixels computed at once, which bounds the memory of positions and spline weights."""
_RESIN_INTENSITY = 0.97
"""Relative intensity of resin in a crack, and of a blank section."""
_LAYER_TRANSMISSION = 0.8
"""Share of the light that one more layer of resin transmits."""
_RESIN_NOISE = 0.012
"""Root mean square of the noise of empty resin, relative."""


@dataclass(frozen=True, slots=True)
class IntensityScale:
    """The dark and the bright end of a section, in its own intensity unit."""

    dark: float
    bright: float

    @classmethod
    def of(cls, image: AnyArray) -> "IntensityScale":
        """Return the 0.5th and 99.5th percentile of the pixels that are not 0."""
        known = image[image != 0]
        if known.size == 0:
            return cls(0.0, 1.0)
        dark, bright = np.percentile(known, [0.5, 99.5])
        return cls(float(dark), float(bright) if bright > dark else float(dark) + 1.0)

    def relative(self, values: Tensor) -> Tensor:
        """Return intensities with 0 at the dark and 1 at the bright end."""
        return (values - self.dark) / (self.bright - self.dark)

    def absolute(self, values: Tensor) -> Tensor:
        """Invert `relative`."""
        return values * (self.bright - self.dark) + self.dark


@dataclass(frozen=True, slots=True)
class ObservedSection:
    """One section as the microscope shows it, and the truth about it."""

    image: AnyArray
    """(y, x), dtype of the source; 0 outside the source."""
    damage: BoolArray
    """(y, x), True for pixels that evaluation must ignore."""
    labels: AnyArray | None
    """(y, x) in the observed frame; 0 is no tissue."""


def truth_field(*, deformation: Deformation, damage: SectionDamage | None, grid: Grid) -> Tensor:
    """Return the field d_z `(2, y, x)`, observed → truth, on `grid`; NaN inside tears and in absent sections."""
    positions = grid.positions()
    if damage is not None and damage.absent:
        return torch.full_like(positions, torch.nan)
    if damage is None or damage.tear is None:
        return deformation.at(positions)
    torn = damage.tear.displacement(positions)
    field = torn + deformation.at(positions + torn)
    return torch.where(damage.tear.inside(positions), torch.full_like(field, torch.nan), field)


def observe_section(
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
        deformation: deformation of this section.
        damage: damage of this section, or None.
        noise: randomness of the grain of empty resin.
    """
    shape: ShapeYX = (image.shape[0], image.shape[1])
    scale = IntensityScale.of(image)
    observed = np.zeros_like(image)
    excluded = np.zeros(shape, dtype=bool)
    observed_labels = None if labels is None else np.zeros_like(labels)
    if damage is not None and damage.absent:
        if damage.kind == "blank":
            observed[...] = _to_dtype(scale.absolute(_resin(shape, noise)), image)
        return ObservedSection(observed, np.ones(shape, dtype=bool), observed_labels)

    source = torch.from_numpy(image.astype(np.float32))[None]
    rows = max(1, _STRIP_PX // shape[1])
    for top in range(0, shape[0], rows):
        strip = slice(top, min(top + rows, shape[0]))
        grid = Grid((strip.stop - strip.start, shape[1]), 1.0, (float(top), 0.0))
        values, hidden, truth_positions = _observe_strip(
            source, grid=grid, scale=scale, deformation=deformation, damage=damage, noise=noise
        )
        observed[strip] = _to_dtype(values, image)
        excluded[strip] = hidden.numpy()
        if labels is not None and observed_labels is not None:
            observed_labels[strip] = np.where(
                hidden_by_tear(damage, grid), 0, nearest_labels(labels, positions=truth_positions)
            )
    return ObservedSection(observed, excluded, observed_labels)


def nearest_labels(labels: AnyArray, *, positions: Tensor) -> AnyArray:
    """Return the labels of the pixels that contain `positions` `(2, …)`; 0 outside. Exact for ids of any size."""
    height, width = labels.shape
    # Beyond ±2^31 px an index would wrap around; NaN lands outside as well.
    index = torch.nan_to_num(positions, nan=-1.0).floor().clamp(-1, 2**30).long().numpy()
    inside = (index[0] >= 0) & (index[0] < height) & (index[1] >= 0) & (index[1] < width)
    y, x = np.where(inside, index[0], 0), np.where(inside, index[1], 0)
    return np.asarray(np.where(inside, labels[y, x], 0)).astype(labels.dtype, copy=False)


def hidden_by_tear(damage: SectionDamage | None, grid: Grid) -> BoolArray:
    """Return the pixels (y, x) inside a tear, which show no single layer of tissue to label."""
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
    """Return intensities (y, x), the pixels that evaluation must ignore, and the truth positions (2, y, x)."""
    positions = grid.positions()
    pixels = Grid((source.shape[1], source.shape[2]), 1.0)

    def sample_truth(truth_positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return relative intensities of the truth at positions `(2, y, x)`, and which of them it covers."""
        values, mask = sample_image(source, grid=pixels, positions=truth_positions, kind="bicubic")
        return scale.relative(values[0]), mask

    tear = None if damage is None else damage.tear
    torn = positions if tear is None else positions + tear.displacement(positions)
    truth_positions = torn + deformation.at(torn)
    tissue, covered = sample_truth(truth_positions)
    hidden = torch.zeros_like(covered)
    if tear is not None:
        cover = tear.coverage(positions)
        if tear.kind == "fold":
            # Transmissions multiply: three layers of tissue, and two more layers of resin than elsewhere.
            band = torch.full_like(tissue, _LAYER_TRANSMISSION**2)
            for layer in tear.layers(positions):
                layer_positions = positions + layer
                band = band * sample_truth(layer_positions + deformation.at(layer_positions))[0].clamp(0.0, 1.0)
        else:
            band = _resin(grid.shape, noise)
            covered |= cover > 0.5  # the gap shows resin, even outside the source
        tissue = tissue * (1.0 - cover) + band * cover
        hidden |= tear.excluded(positions)
    if damage is not None and damage.paint is not None:
        tissue, painted = damage.paint.paint(tissue, positions=positions)
        hidden |= painted
    values = torch.where(covered, scale.absolute(tissue), torch.zeros_like(tissue))
    return values, hidden, truth_positions


def _resin(shape: ShapeYX, noise: np.random.Generator) -> Tensor:
    """Return empty resin, relative intensities (y, x)."""
    grain = torch.from_numpy(noise.standard_normal(shape, dtype=np.float32))
    return _RESIN_INTENSITY + _RESIN_NOISE * grain


def _to_dtype(values: Tensor, like: AnyArray) -> AnyArray:
    limits = np.iinfo(like.dtype)
    return values.round().clamp(limits.min, limits.max).numpy().astype(like.dtype)
