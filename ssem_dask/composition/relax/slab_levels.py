"""The affine level of a stack of slabs: each by itself, then joined across the borders, see `separation.slabs`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.section_fields import AffineLevel, correct_affines, section_extent
from ssem_dask.composition.relax.uncertainty import affine_parameter_variance
from ssem_dask.composition.separation.affine_log import to_parameters
from ssem_dask.composition.separation.affine_separation import KnownStatistics
from ssem_dask.composition.separation.anchor_observations import Anchors
from ssem_dask.composition.separation.jumps import Jump
from ssem_dask.composition.separation.slabs import (
    SlabJump,
    crossing_pairs,
    jump_across,
    natural_steps,
    shrunk_jump,
    slab_frames,
    slab_ranges,
)
from ssem_dask.field.affine import compose_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.types import Float64Array

_APART = 16
"""Sections without pairs between slabs whose statistics are fitted together."""


@dataclass(frozen=True, slots=True)
class JoinedLevels:
    """The affine level of all sections."""

    slabs: tuple[range, ...]
    """Sections of each slab; one of all sections without borders."""
    levels: tuple[AffineLevel, ...]
    """Level of each slab, by itself."""
    correction: Float[Float64Array, "Z 2 3"]
    natural: Float[Float64Array, "Z 2 3"]
    """Maps as of `AffineLevel`; NaN in the first section of each slab but the first, since nothing is known across."""
    variance: Float[Float64Array, "Z 2"]
    """See `affine_parameter_variance`."""
    borders: tuple[SlabJump, ...]
    """Jumps between slabs."""

    @property
    def longest(self) -> AffineLevel:
        """The level of the longest slab that has statistics, of equal ones the first."""
        sizes = [(bool(level.variances), len(slab)) for slab, level in zip(self.slabs, self.levels, strict=True)]
        return self.levels[sizes.index(max(sizes))]

    @property
    def jumps(self) -> tuple[Jump, ...]:
        """Jumps within slabs that were undone."""
        return tuple(
            replace(jump, z=slab.start + jump.z)
            for slab, level in zip(self.slabs, self.levels, strict=True)
            for jump in level.jumps
        )


def correct_slabs(
    affine: Float[Float64Array, "K Z 2 3"],
    weights: Float[Float64Array, "K Z"],
    *,
    borders: Sequence[int],
    coarse: Float[Float64Array, "Z 2 3"],
    grid: Grid,
    thickness: float,
    config: RelaxConfig,
    anchors: Anchors | None,
    kept_jumps: Sequence[int] = (),
    undone_jumps: Sequence[int] = (),
) -> JoinedLevels:
    """Return the affine maps that correct the coarse ones; arguments as of `correct_affines`.

    Args:
        affine: affine parts of the pair fields, NaN if there is none.
        weights: how well each is determined, 0 to 1.
        borders: first section of each slab but the first.
        coarse: A.
        grid: of the pair fields.
        thickness: of a section, mip-0 px.
        config: whether natural motion is kept.
        anchors: landmarks and far pairs that determine drift; None if there are borders.
        kept_jumps: sections before which the tissue jumps, which is left alone.
        undone_jumps: sections before which all later sections were displaced.
    """
    slabs = slab_ranges(borders, count=weights.shape[1])
    inside = np.where(crossing_pairs(borders, steps=len(weights), count=weights.shape[1]), 0.0, weights)

    def solve(sections: Sequence[range], statistics: KnownStatistics | None = None) -> AffineLevel:
        """Solve for one slab, or for several that share their statistics."""
        rows = _rows(sections)
        known, kept, undone = (
            tuple(rows.index(z) for slab in sections for z in places if z in slab[1:])
            for places in (config.known_jumps, kept_jumps, undone_jumps)
        )
        return correct_affines(
            np.where(inside[..., None, None] > 0, affine, np.nan)[:, rows],
            np.where(np.array(rows) < 0, 0.0, inside[:, rows]),
            coarse=coarse[rows],
            grid=grid,
            thickness=thickness,
            config=config.model_copy(update={"known_jumps": known}),
            anchors=anchors,
            kept_jumps=kept,
            undone_jumps=undone,
            statistics=statistics,
        )

    levels = [solve([slab]) for slab in slabs]
    for alike in slabs_alike([level.certainty if level.variances else None for level in levels]):
        joint = solve([slabs[i] for i in alike])
        statistics = KnownStatistics(joint.variances, joint.certainty)
        for i in alike:
            levels[i] = replace(solve([slabs[i]], statistics), evidence=levels[i].evidence)
    correction = np.concatenate([level.correction for level in levels])
    natural = np.concatenate([level.natural for level in levels])
    found: list[SlabJump] = []
    if len(slabs) > 1:
        shape = section_extent(grid)
        natural[[slab.start for slab in slabs[1:]]] = np.nan
        sections = _composed(coarse, correction)
        pairs = _between_sections(affine, weights, coarse)
        motion = to_parameters(natural, shape_yx=shape)
        seen = {"sections": sections, "pairs": pairs, "weights": weights, "motion": motion}
        fitted = [slab for slab, level in zip(slabs, levels, strict=True) if level.variances]
        usual = natural_steps(fitted, **seen, shape_yx=shape)
        found = [shrunk_jump(jump_across(later.start, **seen, shape_yx=shape), usual) for later in slabs[1:]]
        for slab, frame in zip(slabs, slab_frames(found, slabs=slabs, shape_yx=shape), strict=True):
            for z in slab:
                correction[z] = compose_affine(outer=correction[z], inner=frame)
                if np.isfinite(natural[z]).all():
                    inner = compose_affine(outer=natural[z], inner=frame)
                    natural[z] = compose_affine(outer=invert_affine(frame), inner=inner)
    return JoinedLevels(
        slabs=tuple(slabs),
        levels=tuple(levels),
        correction=correction,
        natural=natural,
        variance=np.concatenate(
            [
                affine_parameter_variance(level.weights, fitted=level.variances, certainty=level.certainty)
                for level in levels
            ]
        ),
        borders=tuple(found),
    )


def slabs_alike(certainties: Sequence[float | None]) -> list[list[int]]:
    """Return groups of slabs that share their statistics: those whose sections were displaced, and those that were not.

    Few sections say little about variances: 20 undisplaced ones may well seem to be displaced by a fraction of a pixel.

    Args:
        certainties: P(displaced) of each slab, None if it has no statistics.
    """
    groups = [
        [i for i, certainty in enumerate(certainties) if certainty is not None and (certainty >= 0.5) == displaced]
        for displaced in (False, True)
    ]
    return [group for group in groups if len(group) > 1]


def _rows(slabs: Sequence[range]) -> list[int]:
    """Return the sections of some slabs; between two of them -1 as often as natural motion needs to be forgotten."""
    rows = list(slabs[0])
    for slab in slabs[1:]:
        rows += [-1] * _APART + list(slab)
    return rows


def _between_sections(affine: Float64Array, weights: Float64Array, coarse: Float64Array) -> Float64Array:
    """Return the maps between the sections themselves; NaN if there is none."""
    out = np.full_like(affine, np.nan)
    known = np.isfinite(affine).all(axis=(2, 3)) & (weights > 0)
    for k, z in zip(*np.nonzero(known), strict=True):
        if z > k:
            inner = compose_affine(outer=affine[k, z], inner=invert_affine(coarse[z]))
            out[k, z] = compose_affine(outer=coarse[z - k - 1], inner=inner)
    return out


def _composed(outer: Float64Array, inner: Float64Array) -> Float64Array:
    return np.array([compose_affine(outer=a, inner=b) for a, b in zip(outer, inner, strict=True)])
