"""Mode `relax`: undo distortion, leave natural motion alone.

Two levels, each with statistics fitted to the data (`separation`): whole-section affines (`affine_sections`), found
again from the pair fields since these know them better than thumbnails; then what is left, per spatial frequency, on
the nodes (`relax_solve`).

Frames: p_kz takes x in section z to x + p_kz(x) in section z-k, both relative to the coarse affines A_z. The new
affines are A_z ∘ C_z, and the result is a_z = C_z ∘ (id + e_z), relative to A_z. Seen from the new affines a pair is
q_kz = C_{z-k}⁻¹ ∘ p_kz ∘ C_z, and what lay between the sections in all is, wherever e_z already leads,

    T_kz(x) = q_kz(x + e_z(x)) + e_{z-k}(x) - e_{z-k}(x + n_kz(x)),

with n_kz the natural motion that e leaves (`relax_total`).

The steps are separate functions, since only the affines need all sections at once: `split_pairs` and `solve_elastic`
work on windows of sections along z.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.elastic import SHORT_NODES, Elastic, solve_elastic
from ssem_dask.composition.relax.node_weights import node_weights, spoken_for
from ssem_dask.composition.relax.relative import split_pairs
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.uncertainty import (
    affine_parameter_variance,
    affine_variance,
    elastic_variance,
    sceptical,
)
from ssem_dask.composition.separation.affine_log import from_parameters
from ssem_dask.composition.separation.affine_separation import OUTLIER, enough_pairs, separate_affines
from ssem_dask.composition.separation.anchored import Beside, SlowFound, SlowSolver
from ssem_dask.composition.separation.jumps import Break
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.field.affine import IDENTITY, apply_affines, compose_affine, invert_affine
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.types import BoolArray, Float64Array, ShapeYX


@dataclass(frozen=True, slots=True)
class AffineLevel:
    """The whole-section part."""

    turn: Float64Array
    """C `(Z, 2, 3)`, the maps that correct the coarse affines."""
    natural: Float64Array
    """`(Z, 2, 3)`: full maps, natural motion from z to z-1 in the aligned frame, mip-0 px; NaN where not told apart."""
    fitted: dict[str, Variances]
    """Of each group of parameters, px²; empty where there were too few sections."""
    evidence: float
    """That sections were displaced one by one, see `evidence_of_distortion`."""
    certainty: float
    """What follows from it, see `certainty_of`."""
    weights: Float64Array
    """`(K, Z)`: robust weights of the pairs' affine parts (`sceptical`)."""
    breaks: tuple[Break, ...] = ()
    """Jumps that were undone."""
    slow: SlowFound | None = None
    """Slow distortion that was undone; None where nothing pins it."""


@dataclass(frozen=True, slots=True)
class RelaxResult:
    """Fields of the sections and what they rest on."""

    fields: Tensor
    """`(Z, 2, y, x)` relative to the coarse affines, no NaN."""
    natural: Tensor
    """`(Z, 2, y, x)`: natural motion from z to z-1 on the aligned nodes, see `natural_motion`."""
    uncertainty: Tensor
    """`(Z, y, x)`: px per component, see `uncertainty`; NaN where natural motion was not told apart."""
    affine_fitted: dict[str, Variances]
    """Of each group of affine parameters, px²; empty where there were too few sections."""
    fitted: list[Variances]
    """Of each band, per coefficient, px²; empty where there were too few sections."""
    evidence: float
    """That whole sections were displaced one by one, see `evidence_of_distortion`."""
    certainty: float
    """What follows from it, see `certainty_of`."""
    flagged: Tensor
    """`(Z, y, x)`: True where no pair says anything."""


def relax(
    pairs: Tensor, confidence: Tensor, *, coarse: Float64Array, spacing: float, thickness: float, config: RelaxConfig
) -> RelaxResult:
    """Find the field of every section.

    With fewer than 8 sections the statistics cannot be fitted. Then, and where natural motion is to be removed,
    neighbours are made to match, by robust least squares of all that the pair fields say, affine part included, and
    `fitted` is empty.

    Args:
        pairs: `(K, Z, 2, y, x)`, mip-0 px, relative to the coarse affines; NaN is unknown.
        confidence: `(K, Z, y, x)`, 0 or more.
        coarse: `(Z, 2, 3)`: aligned → source.
        spacing: mip-0 px between nodes.
        thickness: of a section, mip-0 px.
        config: neighbours, rounds and robustness.
    """
    steps = min(config.neighbours, pairs.shape[0])
    pairs, weights = pairs[:steps], node_weights(pairs[:steps], confidence[:steps])
    grid = Grid((pairs.shape[-2], pairs.shape[-1]), spacing)
    split = split_pairs(pairs, weights, grid=grid)
    level = turn_affines(split.affine, coarse=coarse, grid=grid, thickness=thickness, config=config, beside=None)
    elastic = solve_elastic(
        split,
        weights,
        turn=level.turn,
        grid=grid,
        fitted=None,
        certainty=level.certainty,
        config=config,
        short=SHORT_NODES * spacing,
    )
    variance = affine_parameter_variance(level.weights, fitted=level.fitted, certainty=level.certainty)
    natural = natural_motion(elastic.natural, affine=level.natural, grid=grid)
    natural[0] = torch.nan
    return RelaxResult(
        fields=joined(elastic.fields, turn=level.turn, grid=grid),
        natural=natural,
        uncertainty=uncertainty_on_nodes(
            elastic, affine=variance, grid=grid, shape_yx=extent(grid), certainty=level.certainty
        ),
        affine_fitted=level.fitted,
        fitted=elastic.fitted,
        evidence=level.evidence,
        certainty=level.certainty,
        flagged=~spoken_for(weights),
    )


def turn_affines(
    affine: Float64Array,
    *,
    coarse: Float64Array,
    grid: Grid,
    thickness: float,
    config: RelaxConfig,
    beside: Beside | None,
) -> AffineLevel:
    """The affine maps that correct the coarse ones, and what they rest on.

    Args:
        affine: `(K, Z, 2, 3)` affine parts of the pair fields, NaN where there is none.
        coarse: A `(Z, 2, 3)`.
        grid: of the pair fields.
        thickness: of a section, mip-0 px.
        config: whether natural motion is kept; if not, the elastic solve answers for all.
        beside: what pins slow distortion.
    """
    count = affine.shape[1]
    known: BoolArray = np.asarray(np.isfinite(affine).all(axis=(2, 3)))
    if config.natural_motion == "remove" or not enough_pairs(known.astype(np.float64)):
        turn, unknown = np.tile(IDENTITY, (count, 1, 1)), np.full((count, 2, 3), np.nan)
        return AffineLevel(
            turn=turn, natural=unknown, fitted={}, evidence=0.0, certainty=0.0, weights=known.astype(np.float64)
        )
    source = np.full_like(affine, np.nan)
    for k, z in zip(*np.nonzero(known), strict=True):
        inner = compose_affine(outer=affine[k, z], inner=invert_affine(coarse[z]))
        source[k, z] = compose_affine(outer=coarse[z - k - 1], inner=inner)
    shape = extent(grid)
    slow = None if beside is None else SlowSolver(beside, shape)
    found = separate_affines(
        source,
        known.astype(np.float64),
        shape_yx=shape,
        thickness=thickness,
        certainty=None,
        jumps=config.jumps == "undo",
        known_jumps=config.known_jumps,
        slow=slow,
    )
    frame = slow.frame if slow is not None and slow.frame is not None and slow.beside.adopt else IDENTITY
    sections = [compose_affine(outer=a, inner=frame) for a in found.sections]
    turns = [compose_affine(outer=invert_affine(a), inner=b) for a, b in zip(coarse, sections, strict=True)]
    return AffineLevel(
        turn=np.stack(turns),
        natural=from_parameters(found.motion, shape_yx=shape),
        fitted=found.fitted,
        evidence=found.evidence,
        certainty=found.certainty,
        weights=sceptical(
            torch.from_numpy(known.astype(np.float64)), robust=torch.from_numpy(found.weights), outlier=OUTLIER
        ).numpy(),
        breaks=found.breaks,
        slow=None if slow is None else slow.found(),
    )


def extent(grid: Grid) -> ShapeYX:
    """(y, x) that the nodes stand for, mip-0 px."""
    return round(grid.shape[0] * grid.spacing), round(grid.shape[1] * grid.spacing)


def joined(elastic: Tensor, *, turn: Float64Array, grid: Grid) -> Tensor:
    """a_z = C_z ∘ (id + e_z), `(Z, 2, y, x)`, in double precision on the way."""
    positions, maps = grid.positions(elastic.device).double(), torch.from_numpy(turn).to(elastic.device)
    out = torch.empty_like(elastic)
    for z in plane_batches(torch.arange(len(out), device=out.device), like=out):
        out[z] = (apply_affines(maps[z], positions + elastic[z].double()) - positions).float()
    return out


def natural_motion(elastic: Tensor, *, affine: Float64Array, grid: Grid) -> Tensor:
    """Natural motion `(Z, 2, y, x)`: what lies at x in aligned section z lies at x + natural(x) in aligned z-1.

    To first order the sum of its elastic and its affine part. NaN where it was not told from distortion; the first
    section has none before it, and what stands there means nothing.

    Args:
        elastic: `(Z, 2, y, x)`, without its affine part.
        affine: `(Z, 2, 3)`, full maps; NaN is unknown.
        grid: of the nodes.
    """
    positions, maps = grid.positions(elastic.device).double(), torch.from_numpy(affine).to(elastic.device)
    out = torch.empty_like(elastic)
    for z in plane_batches(torch.arange(len(out), device=out.device), like=out):
        out[z] = (apply_affines(maps[z], positions) - positions + elastic[z].double()).float()
    return out


def uncertainty_on_nodes(
    elastic: Elastic, *, affine: Float64Array, grid: Grid, shape_yx: ShapeYX, certainty: float
) -> Tensor:
    """Posterior standard deviation `(Z, y, x)`, px per component, of the fields against the course of their neighbours.

    NaN where natural motion was not told from distortion.

    Args:
        elastic: as it was solved for.
        affine: variances `(Z, 2)` of the same sections, see `affine_parameter_variance`.
        grid: of the nodes.
        shape_yx: section, mip-0 px.
        certainty: of distortion, as the solve was given it.
    """
    variance = elastic_variance(elastic.weights, fitted=elastic.fitted, certainty=certainty)
    variance += affine_variance(affine, shape_yx=shape_yx, grid=grid, device=variance.device)
    return variance.sqrt_()
