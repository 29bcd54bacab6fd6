"""Sequences of sections with known distortion and natural motion, composed exactly, and what can befall them."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.section_fields import RelaxResult, relax
from ssem_dask.composition.relax.spectra import from_spectrum
from ssem_dask.composition.separation.affine_log import from_parameters
from ssem_dask.field.affine import IDENTITY, apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.types import Float64Array

NODES = (12, 14)
SPACING = 32.0
THICKNESS = 8.0
GRID = Grid(NODES, SPACING)
_EXTENT = (round(NODES[0] * SPACING), round(NODES[1] * SPACING))


@dataclass(frozen=True, slots=True)
class Sequence:
    """Pair fields and what they were made from."""

    pairs: Tensor
    """`(3, Z, 2, y, x)`, px."""
    distortion: Float64Array
    """`(Z, 2, y, x)`: what the fields should be, up to what all sections have in common."""
    motion: Float64Array
    """`(Z, 2, y, x)`: natural motion from z to z-1, as seen from the undistorted section z."""

    def lose(self, sections: list[int], box: tuple[slice, slice] = (slice(None), slice(None))) -> None:
        """Make all that is known of some sections unknown, or what is known of a box of nodes."""
        for z in sections:
            self.pairs[:, z, :, *box] = torch.nan
            for k in range(1, 4):
                if z + k < self.pairs.shape[1]:
                    self.pairs[k - 1, z + k, :, *box] = torch.nan

    def relaxed(self) -> RelaxResult:
        """Compose the sequence."""
        known = torch.isfinite(self.pairs).all(dim=2).float()
        coarse = np.broadcast_to(IDENTITY, (self.pairs.shape[1], 2, 3)).copy()
        return relax(self.pairs, known, coarse=coarse, spacing=SPACING, thickness=THICKNESS, config=RelaxConfig())


def sequence(seed: int, *, count: int, distorted: bool = True) -> Sequence:
    """A sequence of which everything is drawn as the model has it: 3 px distortion, 1 px motion, 0.15 px noise."""
    rng = np.random.default_rng(seed)
    size = 3.0 if distorted else 0.0
    elastic, moved = coloured(rng, count, size=size, power=1.0), coloured(rng, count, size=1.0, power=1.5, r=0.9)
    affine = _affines(rng, count, [6, 6, 3, 1, 1, 1] if distorted else [0] * 6, r=0.0)
    natural = _affines(rng, count, [0.5, 0.5, 0.15, 0.15, 0.15, 0.15], r=0.9)
    nodes = GRID.positions().double().numpy()
    pairs = np.full((3, count, 2, *NODES), np.nan)
    for z in range(1, count):
        at = nodes.copy()
        for _ in range(12):  # the position, in the undistorted section, of what is seen at the nodes
            at = nodes - _displacement(elastic[z], affine[z], at)
        for k in range(1, min(z, 3) + 1):
            at = at + _displacement(moved[z - k + 1], natural[z - k + 1], at)
            noise = k * coloured(rng, 1, size=0.15, power=0.3)[0]
            pairs[k - 1, z] = at + _displacement(elastic[z - k], affine[z - k], at) - nodes + noise
    return Sequence(
        torch.from_numpy(pairs).float(),
        np.stack([_displacement(e, a, nodes) for e, a in zip(elastic, affine, strict=True)]),
        np.stack([_displacement(e, a, nodes) for e, a in zip(moved, natural, strict=True)]),
    )


def coloured(rng: np.random.Generator, count: int, *, size: float, power: float, r: float = 0.0) -> Float64Array:
    """Fields `(count, 2, y, x)`, rms `size`, amplitudes falling as frequency to `power`; AR(1) along z."""
    i, j = np.indices(NODES)
    frequency = np.hypot(i / NODES[0], j / NODES[1])
    fall = np.exp(-((frequency / 0.6) ** 4)) / np.maximum(frequency, 0.05) ** power
    amplitude = np.where(i + j > 1, fall, 0.0)  # the others hold what is affine
    waves = _correlated(rng.normal(size=(count, 2, *NODES)), r=r)
    return np.asarray(from_spectrum(waves * amplitude) * size / np.sqrt((amplitude**2).mean()))


def _affines(rng: np.random.Generator, count: int, size: list[float], *, r: float) -> Float64Array:
    return from_parameters(_correlated(rng.normal(size=(count, 6)), r=r) * size, shape_yx=_EXTENT)


def _correlated(white: Float64Array, *, r: float) -> Float64Array:
    for z in range(1, len(white)):
        white[z] = r * white[z - 1] + (1 - r**2) ** 0.5 * white[z]
    return white


def _displacement(elastic: Float64Array, affine: Float64Array, at: Float64Array) -> Float64Array:
    """Return an elastic field, continued like its cosines, plus an affine map, at positions `(2, y, x)`."""
    smooth = np.stack([map_coordinates(c, at / SPACING - 0.5, order=3, mode="reflect") for c in elastic])
    points = torch.from_numpy(at)
    return np.asarray(smooth + (apply_affine(affine, points) - points).numpy())
