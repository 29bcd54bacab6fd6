"""Harm and return: the fields of a stack with spoilt sections, against those of the same stack without.

With f_z the recovered field, g_z the source of the spoilt image and d_z the known deformation, c_z = d_z∘g_z∘f_z leads
from the aligned frame to the truth; g_z is the identity of a sound section. What matters is |c_z - c0_z|, c0 of the
undamaged run, after one global translation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy.methods import SectionFields
from benchmarks.spoilt.kinds import SpoiltStack
from benchmarks.spoilt.stacks import DeformedStack
from ssem_dask.evaluation.metrics.alignment_error import SPACING
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample, sample_known
from ssem_dask.types import Float32Array


@dataclass(frozen=True, slots=True)
class Measured:
    """Harm by spoilt sections, and their own return."""

    harm: Mapping[int, float]
    """Median |c_z - c0_z| of each other section, px."""
    back: Mapping[int, tuple[float, float]]
    """Median and 95th percentile of the same for each spoilt section that shows tissue of its place, px."""
    maps: Mapping[int, Float32Array]
    """|c_z - c0_z| of every section (y, x) on the 4-px grid, px; NaN is unknown."""

    @property
    def harm_median(self) -> float:
        """Median of the harm over the sections, px."""
        return float(np.median(list(self.harm.values())))

    @property
    def harm_largest(self) -> float:
        """Largest harm of a section, px."""
        return max(self.harm.values())


def truth_maps(fields: SectionFields, stack: DeformedStack, sources: Mapping[int, Float32Array]) -> Float32Array:
    """Return c_z as displacements (z, 2, y, x) on the 4-px grid, px; NaN where the section shows no tissue."""
    candidate = fields.candidate("aligned")
    grid = Grid.of_section(stack.shape_yx, spacing=SPACING)
    return np.stack(
        [
            _truth_map(candidate.displacements(z, grid), stack, z, source=sources.get(z), grid=grid).numpy()
            for z in range(len(stack.images))
        ]
    )


def _truth_map(field: Tensor, stack: DeformedStack, z: int, *, source: Float32Array | None, grid: Grid) -> Tensor:
    positions, section = grid.positions(), Grid(stack.shape_yx, 1.0)
    at = positions + field
    at = torch.where(section.contains(at), at, torch.full_like(at, torch.nan))
    if source is not None:
        # No interpolation between the two sides of a cut: NaN there is NaN.
        known = torch.from_numpy(np.isfinite(source).all(axis=0)).float()[None]
        filled = sample_known(torch.from_numpy(source), grid=section, positions=at)
        share = sample(known, grid=section, positions=torch.nan_to_num(at), kind="bilinear")[0]
        at = torch.where(share > 0.999, filled, torch.full_like(at, torch.nan))
    truth = at + stack.deformations[z].at(torch.nan_to_num(at))
    inside = section.contains(truth) & torch.isfinite(at).all(dim=0)
    return torch.where(inside, truth - positions, torch.full_like(truth, torch.nan))


def measure(maps: Float32Array, undamaged: Float32Array, stack: SpoiltStack) -> Measured:
    """Compare c with c0.

    Args:
        maps: c (z, 2, y, x), px.
        undamaged: c0, the same of the undamaged run.
        stack: which sections were spoilt.
    """
    difference = maps - undamaged
    others = [z for z in range(len(maps)) if z not in stack.spoilt]
    shift = np.nanmedian(difference[others], axis=(0, 2, 3))
    length = np.linalg.norm(difference - shift[:, None, None], axis=1).astype(np.float32)
    harm = {z: float(np.nanmedian(length[z])) for z in others}
    back = {
        z: (float(np.nanmedian(length[z])), float(np.nanquantile(length[z], 0.95)))
        if np.isfinite(length[z]).any()
        else (float("inf"), float("inf"))
        for z in stack.sources
    }
    return Measured(harm, back, dict(enumerate(length)))
