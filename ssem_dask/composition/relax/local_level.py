"""The affine level of a few sections, after some of their pairs have changed; the statistics stay as they are.

The sections are solved for twice by the same statistics, from the pairs as they were and as they are now. The
difference of the two is what the change does; it is added to the level that there is, the less the farther from the
change. So a section that the change does not reach stays unchanged, whatever the window of sections that is solved for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from ssem_dask.composition.relax.uncertainty import affine_parameter_variance, discount_outliers
from ssem_dask.composition.separation.affine_log import from_parameters, to_parameters
from ssem_dask.composition.separation.affine_separation import OUTLIER, KnownStatistics, LocalSeparation, separate_by
from ssem_dask.field.affine import compose_affine, invert_affine
from ssem_dask.types import BoolArray, Float64Array, ShapeYX


@dataclass(frozen=True, slots=True)
class LevelRows:
    """Rows of the affine level."""

    correction: Float[Float64Array, "Z 2 3"]
    """C."""
    natural: Float[Float64Array, "Z 2 3"]
    variance: Float[Float64Array, "Z 2"]

    def rows(self, sections: slice) -> "LevelRows":
        """Return the level of some of the sections."""
        return LevelRows(self.correction[sections], self.natural[sections], self.variance[sections])


@dataclass(frozen=True, slots=True)
class LocalPairs:
    """Affine parts of the pairs of consecutive sections, and the places to which they are relative."""

    affines: Float[Float64Array, "K Z 2 3"]
    """p, relative to the places; NaN if there is none."""
    weights: Float[Float64Array, "K Z"]
    """How well each is determined, 0 to 1, see `relative.affine_weights`."""
    places: Float[Float64Array, "Z 2 3"]
    """A, upright → source, without what happened to sections as a whole."""

    def between_sections(self) -> Float64Array:
        """Return the maps between the sections themselves, A_{z-k} ∘ p ∘ A_z⁻¹; NaN if there is none."""
        out = np.full_like(self.affines, np.nan)
        for k, z in zip(*np.nonzero(np.isfinite(self.affines).all(axis=(2, 3))), strict=True):
            if z > k:
                inner = compose_affine(outer=self.affines[k, z], inner=invert_affine(self.places[z]))
                out[k, z] = compose_affine(outer=self.places[z - k - 1], inner=inner)
        return out


def updated_level(
    level: LevelRows,
    *,
    before: LocalPairs,
    after: LocalPairs,
    weight: Float[Float64Array, " Z"],
    moved: Bool[BoolArray, " Z"],
    shape_yx: ShapeYX,
    thickness: float,
    known: KnownStatistics,
) -> LevelRows:
    """Return the level after a change.

    Args:
        level: rows of the fit.
        before: pairs and places of the fit.
        after: pairs and places now.
        weight: how far the change counts in each section, 0 to 1.
        moved: sections whose place has changed; of these nothing stays of the fit.
        shape_yx: section, mip-0 px.
        thickness: of a section, mip-0 px.
        known: statistics of the fit.
    """
    if not known.variances:
        return level  # nothing was separated: the elastic solve answers for the affine part as well
    fitted = _composed(before.places, level.correction)
    start = to_parameters(fitted, shape_yx=shape_yx)
    solved = [_separated(each, start, shape_yx=shape_yx, thickness=thickness, known=known) for each in (before, after)]
    share = weight[:, None]
    parameters = start + share * (solved[1].parameters - solved[0].parameters)
    parameters[moved] = solved[1].parameters[moved]
    sections = from_parameters(parameters, shape_yx=shape_yx)
    correction = _composed(np.array([invert_affine(a) for a in after.places]), sections)
    natural = to_parameters(level.natural, shape_yx=shape_yx) + share * (solved[1].motion - solved[0].motion)
    variances = [_variance(each, pairs, known=known) for each, pairs in zip(solved, (before, after), strict=True)]
    variance = np.maximum(level.variance + share * (variances[1] - variances[0]), 0.0)
    variance[moved] = variances[1][moved]
    unchanged = weight == 0
    return LevelRows(
        correction=np.where(unchanged[:, None, None], level.correction, correction),
        natural=np.where(unchanged[:, None, None], level.natural, from_parameters(natural, shape_yx=shape_yx)),
        variance=np.where(unchanged[:, None], level.variance, variance),
    )


def solved_level(
    pairs: LocalPairs,
    *,
    offset: Float[Float64Array, "6"],
    shape_yx: ShapeYX,
    thickness: float,
    known: KnownStatistics,
) -> LevelRows:
    """Return the level of consecutive sections that nothing was known of.

    Args:
        pairs: their pairs and places.
        offset: displacement of all of them by jumps before the first one, parameters of `affine_log`, px.
        shape_yx: section, mip-0 px.
        thickness: of a section, mip-0 px.
        known: statistics of the volume.
    """
    count = len(pairs.places)
    start = np.zeros((count, 6))
    solved = _separated(pairs, start, shape_yx=shape_yx, thickness=thickness, known=known)
    sections = from_parameters(solved.parameters + offset, shape_yx=shape_yx)
    return LevelRows(
        correction=_composed(np.array([invert_affine(a) for a in pairs.places]), sections),
        natural=from_parameters(solved.motion, shape_yx=shape_yx),
        variance=_variance(solved, pairs, known=known),
    )


def _separated(
    pairs: LocalPairs, start: Float64Array, *, shape_yx: ShapeYX, thickness: float, known: KnownStatistics
) -> LocalSeparation:
    maps = pairs.between_sections()
    return separate_by(
        maps, _known_weights(pairs, maps), start=start, shape_yx=shape_yx, thickness=thickness, known=known
    )


def _known_weights(pairs: LocalPairs, maps: Float64Array) -> Float64Array:
    return np.where(np.isfinite(maps).all(axis=(2, 3)), pairs.weights, 0.0)


def _variance(solved: LocalSeparation, pairs: LocalPairs, *, known: KnownStatistics) -> Float64Array:
    observed = torch.from_numpy(np.where(solved.robust > 0, pairs.weights, 0.0))
    weights = discount_outliers(observed, robust=torch.from_numpy(solved.robust), outlier=OUTLIER)
    return affine_parameter_variance(weights.numpy(), fitted=known.variances, certainty=known.certainty)


def _composed(outer: Sequence[Float64Array] | Float64Array, inner: Float64Array) -> Float64Array:
    return np.array([compose_affine(outer=a, inner=b) for a, b in zip(outer, inner, strict=True)])
