"""Mode `relax`: undo distortion, leave natural motion alone.

Two levels, each with statistics fitted to the data (`sequence`): whole-section affines (`affine_separation`), found
again from the pair fields since these determine them better than thumbnails; then the elastic rest, per spatial
frequency, on the nodes (`elastic`).

Frames and symbols, for sections z and z-k:

    A_z    coarse affine, aligned → source                                                              given
    p_kz   pair field: takes x in section z to x + p_kz(x) in section z-k, both relative to A           given
    C_z    affine correction: the new affine of a section is A_z ∘ C_z                                  level 1
    e_z    elastic part                                                                                 level 2
    a_z    = C_z ∘ (id + e_z), the result, relative to A_z
    q_kz   = C_{z-k}⁻¹ ∘ p_kz ∘ C_z, a pair seen from the new affines
    n_kz   natural motion that e leaves
    T_kz   relative displacement of the two sections before any correction

At the place to which e_z leads now,

    T_kz(x) = q_kz(x + e_z(x)) + e_{z-k}(x) - e_{z-k}(x + n_kz(x))      (`relative`).

The steps are separate functions, since only the affines need all sections at once: `split_pairs` and `solve_elastic`
work on windows of sections along z.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.composition.relax.elastic import (
    HIGH_FREQUENCY_NODES,
    ElasticProblem,
    ElasticSolution,
    relax_elastic,
)
from ssem_dask.composition.relax.node_weights import node_weights, observed_mask
from ssem_dask.composition.relax.relative import pair_affine_weights, split_pairs
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.uncertainty import (
    affine_parameter_variance,
    affine_variance,
    discount_outliers,
    elastic_variance,
)
from ssem_dask.composition.separation.affine_log import from_parameters
from ssem_dask.composition.separation.affine_separation import (
    OUTLIER,
    AffineSeparation,
    KnownStatistics,
    enough_pairs,
    separate_affines,
)
from ssem_dask.composition.separation.anchor_observations import Anchors
from ssem_dask.composition.separation.anchored import DriftResult
from ssem_dask.composition.separation.jumps import Jump
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.field.affine import IDENTITY, apply_affines, compose_affine, invert_affine
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.types import BoolArray, Float64Array, ShapeYX


@dataclass(frozen=True, slots=True)
class AffineLevel:
    """The whole-section part of the result."""

    correction: Float[Float64Array, "Z 2 3"]
    """C, the maps that correct the coarse affines."""
    natural: Float[Float64Array, "Z 2 3"]
    """Full maps, natural motion from z to z-1 in the aligned frame, mip-0 px; NaN if it was not separated."""
    variances: dict[str, Variances]
    """Fitted variances of each group of parameters, px²; empty if there were too few sections."""
    evidence: float
    """Log posterior ratio of distortion against none, see `evidence_of_distortion`."""
    certainty: float
    """Calibrated score read as P(displaced), see `certainty_from_evidence`."""
    weights: Float[Float64Array, "K Z"]
    """Robust weights of the pairs' affine parts, outliers discounted."""
    jumps: tuple[Jump, ...] = ()
    """Jumps that were undone."""
    drift: DriftResult | None = None
    """Drift that was undone; None without anchors."""


@dataclass(frozen=True, slots=True)
class RelaxResult:
    """Fields of the sections and what they rest on."""

    fields: Float[Tensor, "Z 2 y x"]
    """a, relative to the coarse affines, no NaN."""
    natural: Float[Tensor, "Z 2 y x"]
    """Natural motion from z to z-1 on the aligned nodes, see `join_natural_motion`."""
    uncertainty: Float[Tensor, "Z y x"]
    """Px per component, see `uncertainty`; NaN if natural motion was not separated."""
    affine_variances: dict[str, Variances]
    """Fitted variances of each group of affine parameters, px²; empty if there were too few sections."""
    band_variances: list[Variances]
    """Fitted variances of each band, per coefficient, px²; empty if there were too few sections."""
    evidence: float
    """Log posterior ratio of distortion against none, see `evidence_of_distortion`."""
    certainty: float
    """Calibrated score read as P(displaced), see `certainty_from_evidence`."""
    unobserved: Bool[Tensor, "Z y x"]
    """Where no pair says anything."""


def relax(
    pairs: Float[Tensor, "K Z 2 y x"],
    confidence: Float[Tensor, "K Z y x"],
    *,
    coarse: Float[Float64Array, "Z 2 3"],
    spacing: float,
    thickness: float,
    config: RelaxConfig,
) -> RelaxResult:
    """Return the fields of all sections.

    With fewer than 8 sections the statistics cannot be fitted. Then, and if natural motion is to be removed,
    neighbours are made to match, by robust least squares of all that the pair fields say, affine part included; no
    variances are fitted.

    Args:
        pairs: pair fields, mip-0 px, relative to the coarse affines; NaN is unknown.
        confidence: 0 or more.
        coarse: A, aligned → source.
        spacing: mip-0 px between nodes.
        thickness: of a section, mip-0 px.
        config: neighbours, rounds and robustness.
    """
    steps = min(config.neighbours, pairs.shape[0])
    pairs, weights = pairs[:steps], node_weights(pairs[:steps], confidence[:steps])
    grid = Grid((pairs.shape[-2], pairs.shape[-1]), spacing)
    split = split_pairs(pairs, weights, grid=grid)
    # Whole-section parts first: rotations and stretches are no cosines, so the elastic solve cannot represent them.
    level = correct_affines(
        split.affine,
        pair_affine_weights(weights, grid=grid),
        coarse=coarse,
        grid=grid,
        thickness=thickness,
        config=config,
        anchors=None,
    )
    elastic = relax_elastic(
        ElasticProblem(
            split=split,
            weights=weights,
            affine_correction=level.correction,
            grid=grid,
            certainty=level.certainty,
            config=config,
            high_frequency_px=HIGH_FREQUENCY_NODES * spacing,
        )
    )
    variance = affine_parameter_variance(level.weights, fitted=level.variances, certainty=level.certainty)
    natural = join_natural_motion(elastic.natural, affine=level.natural, grid=grid)
    # There is no section before the first one.
    natural[0] = torch.nan
    return RelaxResult(
        fields=join_affine_and_elastic(elastic.fields, affine=level.correction, grid=grid),
        natural=natural,
        uncertainty=uncertainty_on_nodes(
            elastic, affine=variance, grid=grid, shape_yx=section_extent(grid), certainty=level.certainty
        ),
        affine_variances=level.variances,
        band_variances=elastic.variances,
        evidence=level.evidence,
        certainty=level.certainty,
        unobserved=~observed_mask(weights),
    )


def correct_affines(
    affine: Float[Float64Array, "K Z 2 3"],
    weights: Float[Float64Array, "K Z"],
    *,
    coarse: Float[Float64Array, "Z 2 3"],
    grid: Grid,
    thickness: float,
    config: RelaxConfig,
    anchors: Anchors | None,
    kept_jumps: Sequence[int] = (),
    undone_jumps: Sequence[int] = (),
    statistics: KnownStatistics | None = None,
) -> AffineLevel:
    """Return the affine maps that correct the coarse ones, and what they rest on.

    Args:
        affine: affine parts of the pair fields, NaN if there is none.
        weights: how well each is determined, 0 to 1, see `relative.affine_weights`.
        coarse: A.
        grid: of the pair fields.
        thickness: of a section, mip-0 px.
        config: whether natural motion is kept; if not, the elastic solve answers for the affine part as well.
        anchors: landmarks and far pairs that determine drift.
        kept_jumps: sections before which the tissue jumps, which is left alone.
        undone_jumps: sections before which all later sections were displaced, in addition to those of `config`.
        statistics: fitted to more than these sections; None fits them here.
    """
    known: BoolArray = np.asarray(np.isfinite(affine).all(axis=(2, 3)) & (weights > 0))
    weights = np.where(known, weights, 0.0)
    # Two fallbacks, both without statistics: the elastic solve then makes neighbours match, affine part included.
    if config.natural_motion == "remove" or not enough_pairs(weights):
        return _no_correction(known)
    # Pair maps in source frames, so that the separation sees the distortion that the coarse affines undid already.
    source = np.full_like(affine, np.nan)
    for k, z in zip(*np.nonzero(known), strict=True):
        inner = compose_affine(outer=affine[k, z], inner=invert_affine(coarse[z]))
        source[k, z] = compose_affine(outer=coarse[z - k - 1], inner=inner)
    shape = section_extent(grid)
    separation = separate_affines(
        source,
        weights,
        shape_yx=shape,
        thickness=thickness,
        certainty=None if statistics is None else statistics.certainty,
        undo_jumps=config.jumps == "undo",
        known_jumps=sorted({*config.known_jumps, *undone_jumps} - set(kept_jumps)),
        kept_jumps=kept_jumps,
        anchors=anchors,
        statistics=None if statistics is None else statistics.variances,
    )
    # All sections move together into the reference's place, if that is wanted: A ∘ frame.
    frame = _aligned_frame(separation, anchors)
    sections = [compose_affine(outer=a, inner=frame) for a in separation.sections]
    corrections = [compose_affine(outer=invert_affine(a), inner=b) for a, b in zip(coarse, sections, strict=True)]
    # The uncertainty needs more pessimistic weights than the solve.
    certain = discount_outliers(torch.from_numpy(weights), robust=torch.from_numpy(separation.robust), outlier=OUTLIER)
    return AffineLevel(
        correction=np.stack(corrections),
        natural=from_parameters(separation.motion, shape_yx=shape),
        variances=separation.variances,
        evidence=separation.evidence,
        certainty=separation.certainty,
        weights=certain.numpy(),
        jumps=separation.jumps,
        drift=separation.drift,
    )


def _no_correction(known: BoolArray) -> AffineLevel:
    """Return the level that leaves the coarse affines as they are."""
    count = known.shape[1]
    # Certainty 0: without statistics nothing says that sections were displaced.
    return AffineLevel(
        correction=np.tile(IDENTITY, (count, 1, 1)),
        natural=np.full((count, 2, 3), np.nan),
        variances={},
        evidence=0.0,
        certainty=0.0,
        weights=known.astype(np.float64),
    )


def _aligned_frame(separation: AffineSeparation, anchors: Anchors | None) -> Float64Array:
    """Return the map from the aligned frame to that of the separation: to the reference's place, or the identity."""
    drift = separation.drift
    if anchors is None or not anchors.use_reference_frame or drift is None or drift.frame is None:
        return IDENTITY
    return drift.frame


def section_extent(grid: Grid) -> ShapeYX:
    """Return (y, x) that the nodes cover, mip-0 px."""
    return round(grid.shape[0] * grid.spacing), round(grid.shape[1] * grid.spacing)


def join_affine_and_elastic(
    elastic: Float[Tensor, "Z 2 y x"], *, affine: Float[Float64Array, "Z 2 3"], grid: Grid
) -> Float[Tensor, "Z 2 y x"]:
    """Return the fields of affine ∘ (id + elastic), computed in double precision."""
    positions, maps = grid.positions(elastic.device).double(), torch.from_numpy(affine).to(elastic.device)
    out = torch.empty_like(elastic)
    # Some sections at a time, since double precision needs twice the memory.
    for z in plane_batches(torch.arange(len(out), device=out.device), like=out):
        out[z] = (apply_affines(maps[z], positions + elastic[z].double()) - positions).float()
    return out


def join_natural_motion(
    elastic: Float[Tensor, "Z 2 y x"], *, affine: Float[Float64Array, "Z 2 3"], grid: Grid
) -> Float[Tensor, "Z 2 y x"]:
    """Return natural motion: tissue at x in aligned section z is at x + natural(x) in aligned section z-1.

    To first order it is the sum of its elastic and its affine part. NaN if it was not separated from distortion. The
    first section has no section before it; its values mean nothing.

    Args:
        elastic: natural motion without its affine part.
        affine: full maps; NaN is unknown.
        grid: of the nodes.
    """
    positions, maps = grid.positions(elastic.device).double(), torch.from_numpy(affine).to(elastic.device)
    out = torch.empty_like(elastic)
    for z in plane_batches(torch.arange(len(out), device=out.device), like=out):
        # To first order displacements add up: both are small against the wavelengths of the other.
        out[z] = (apply_affines(maps[z], positions) - positions + elastic[z].double()).float()
    return out


def uncertainty_on_nodes(
    elastic: ElasticSolution,
    *,
    affine: Float[Float64Array, "Z 2"],
    grid: Grid,
    shape_yx: ShapeYX,
    certainty: float,
) -> Float[Tensor, "Z y x"]:
    """Return the posterior standard deviation, px per component, of the fields against the course of their neighbours.

    NaN if natural motion was not separated from distortion.

    Args:
        elastic: the solution of the elastic level.
        affine: variances of the same sections, see `affine_parameter_variance`.
        grid: of the nodes.
        shape_yx: section, mip-0 px.
        certainty: P(displaced), as in the solve.
    """
    # Errors of the two levels are independent, so their variances add up.
    variance = elastic_variance(elastic.weights, variances=elastic.variances, certainty=certainty)
    variance += affine_variance(affine, shape_yx=shape_yx, grid=grid, device=variance.device)
    return variance.sqrt_()
