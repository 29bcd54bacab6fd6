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

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssem_dask.composition.affine_log import from_parameters
from ssem_dask.composition.affine_sections import OUTLIER, enough_pairs, separate_affines
from ssem_dask.composition.breaks import Break
from ssem_dask.composition.likelihood import fit_variances
from ssem_dask.composition.relax_solve import plane_weights, solve
from ssem_dask.composition.relax_total import SplitPairs, observed_totals, split_pairs, without_affine
from ssem_dask.composition.separation import LEAST_LONG, LEAST_SHORT, SequenceModel, Variances, believed
from ssem_dask.composition.slow import Beside, SlowFound, SlowSolver
from ssem_dask.composition.smooth import fill_unknown
from ssem_dask.composition.spectra import Bands, bands_of, to_spectrum
from ssem_dask.composition.thin import without_long
from ssem_dask.composition.uncertainty import affine_parameter_variance, affine_variance, elastic_variance, sceptical
from ssem_dask.field.affine import IDENTITY, apply_affine, compose_affine, invert_affine
from ssem_dask.field.device import CPU
from ssem_dask.field.grid import Grid
from ssem_dask.types import BoolArray, ConfigBase, Float64Array, ShapeYX

LEAST_WEIGHT = 0.003
"""Weight of a known node without any confidence, relative to a typical one."""
_FITTED_ROUNDS = 2
"""Rounds in which the variances are fitted; after two they no longer change."""
SHORT_NODES = 8.0
"""Wavelength, in nodes of the pair fields, below which elastic distortion is expected to be weak: 640 nm with the
default spacing, a dozen thicknesses of a section."""
_FIT_COLUMNS = 64
"""Coefficients of a band that its variances are fitted to: more change nothing and take time."""


class RelaxConfig(ConfigBase):
    """Separation of distortion from natural motion."""

    natural_motion: Literal["keep", "remove"] = "keep"
    """`keep`: only distortion is undone. `remove`: neighbours are made to match by robust least squares, which bends
    oblique tissue upright; for comparison, and where that is wanted."""
    neighbours: int = Field(default=3, ge=1)
    """Pairs up to this distance in z are used, as far as there are any."""
    rounds: int = Field(default=3, ge=1)
    """How often the pair fields are sampled anew where the solution leads."""
    iterations: int = Field(default=10, ge=1)
    """Iterations of each round's solve; they only matter where nodes are missing or worth little."""
    outlier: float = Field(default=4.0, gt=0)
    """Robust standard deviations at which an observation has lost half of its weight."""
    window: int = Field(default=64, ge=16)
    """Sections that one task solves for."""
    overlap: int = Field(default=32, ge=0)
    """Sections beyond either end of a window that it looks at: several times the correlation length of natural
    motion."""
    plane: int = Field(default=384, ge=16)
    """Nodes along a side up to which a section is solved for at once. In wider ones long waves are solved for on fewer
    nodes, and short waves in tiles."""
    tile: int = Field(default=256, ge=8)
    """Nodes along a side of such a tile, without its halo."""
    jumps: Literal["undo", "keep"] = "undo"
    """Places where all later sections are displaced alike against those before, far more than tissue moves (a new
    block, another knife): undone and reported, or kept as motion of the tissue."""
    jumps_at: tuple[int, ...] = ()
    """Sections before which there is such a place for certain, beside those that are found."""
    keep_natural: bool = False
    """Write the natural motion that was found to `fields/natural`, to be looked at; as large as `fields/section`."""


@dataclass(frozen=True, slots=True)
class Elastic:
    """The elastic part of a window."""

    fields: Tensor
    """e `(Z, 2, y, x)`, mip-0 px."""
    natural: Tensor
    """`(Z, 2, y, x)`: natural motion from z to z-1 on the aligned nodes, without its affine part."""
    fitted: list[Variances]
    """Of each band, per coefficient, px²."""
    weights: Float64Array
    """`(K, Z, y, x)`: what each node of each pair was worth in the last solve, outliers less (`sceptical`)."""


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
        flagged=torch.from_numpy(~spoken_for(weights)),
    )


def node_weights(pairs: Tensor, confidence: Tensor, *, typical: float | None = None) -> Float64Array:
    """Weights `(K, Z, y, x)` of the observations: relative to a typical one and at most 1; 0 where unknown.

    Args:
        pairs: `(K, Z, 2, y, x)`.
        confidence: `(K, Z, y, x)`.
        typical: confidence; None takes the median of k = 1.
    """
    known = torch.isfinite(pairs).all(dim=2) & (confidence > 0)
    values = torch.where(known, torch.nan_to_num(confidence), torch.zeros_like(confidence)).double().numpy()
    if typical is None:
        typical = typical_confidence(values[0])
    return np.asarray(np.where(values > 0, np.clip(values / typical, LEAST_WEIGHT, 1.0), 0.0))


def typical_confidence(near: Float64Array) -> float:
    """The median of what is known of confidences of neighbours; 1 where nothing is."""
    known = near[near > 0]
    return float(np.median(known)) if known.size else 1.0


def spoken_for(weights: Float64Array) -> BoolArray:
    """`(Z, y, x)`: where any pair, of this section or to it, is known."""
    known = weights > 0
    out: BoolArray = np.asarray(known.any(axis=0))
    for k in range(1, len(weights) + 1):
        out[:-k] |= known[k - 1, k:]
    return out


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
        known_jumps=config.jumps_at,
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
        weights=sceptical(known.astype(np.float64), robust=found.weights, outlier=OUTLIER),
        breaks=found.breaks,
        slow=None if slow is None else slow.found(),
    )


def extent(grid: Grid) -> ShapeYX:
    """(y, x) that the nodes stand for, mip-0 px."""
    return round(grid.shape[0] * grid.spacing), round(grid.shape[1] * grid.spacing)


def joined(elastic: Tensor, *, turn: Float64Array, grid: Grid) -> Tensor:
    """a_z = C_z ∘ (id + e_z), `(Z, 2, y, x)`."""
    positions = grid.positions().double()
    return torch.stack(
        [(apply_affine(c, positions + e.double()) - positions).float() for c, e in zip(turn, elastic, strict=True)]
    )


def natural_motion(elastic: Tensor, *, affine: Float64Array, grid: Grid) -> Tensor:
    """Natural motion `(Z, 2, y, x)`: what lies at x in aligned section z lies at x + natural(x) in aligned z-1.

    To first order the sum of its elastic and its affine part. NaN where it was not told from distortion; the first
    section has none before it, and what stands there means nothing.

    Args:
        elastic: `(Z, 2, y, x)`, without its affine part.
        affine: `(Z, 2, 3)`, full maps; NaN is unknown.
        grid: of the nodes.
    """
    positions = grid.positions().double()
    return torch.stack(
        [(apply_affine(a, positions) - positions + m.double()).float() for a, m in zip(affine, elastic, strict=True)]
    )


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
    variance += affine_variance(affine, shape_yx=shape_yx, grid=grid)
    return torch.from_numpy(np.sqrt(variance)).float()


def solve_elastic(
    split: SplitPairs,
    weights: Float64Array,
    *,
    turn: Float64Array,
    grid: Grid,
    fitted: list[Variances] | None,
    certainty: float,
    config: RelaxConfig,
    base: Tensor | None = None,
    factor: int = 1,
    short: float,
    device: torch.device = CPU,
    only_fit: bool = False,
) -> Elastic:
    """The elastic part e_z of a window of sections, re-linearised and robust.

    With `base` only the short waves of a tile are solved for, those that blocks of `factor`² nodes cannot carry.

    Args:
        split: pair fields of the window; pairs that leave it have no weight.
        weights: `(K, Z, y, x)`.
        turn: C `(Z, 2, 3)`.
        grid: of the nodes.
        fitted: variances of each band; None fits them to this window.
        certainty: that sections were displaced one by one, of the affine level.
        config: rounds and robustness.
        base: `(Z, 2, y, x)`, long waves of e that are known already; then e is without them.
        factor: see `thin`; only with `base`.
        short: wavelength, px, below which distortion is expected to be weak, see `SHORT_NODES`.
        device: where the solves run.
        only_fit: the variances alone are wanted: then the solves after the last fit are left out, and the fields are
            those of the round before.
    """
    count = weights.shape[1]
    bands = bands_of(grid.shape)
    known_already = torch.zeros(count, 2, *grid.shape) if base is None else base
    elastic = torch.zeros(count, 2, *grid.shape)
    natural = torch.zeros_like(split.rest)
    plain = config.natural_motion == "remove" or (fitted is None and not enough_pairs(plane_weights(weights)))
    expected: Float64Array | None = None
    robust = worth = np.ones_like(weights)
    variances = fitted
    for turn_number in range(config.rounds):
        total, natural, known = observed_totals(
            split, turn=turn, elastic=known_already + elastic, natural=natural, grid=grid
        )
        now = weights * known * robust
        if base is not None:
            total = without_long(_filled(total, known=known, expected=None), grid=grid, factor=factor)
        elif not plain:
            total = without_affine(total, now, grid=grid)
        filled = _filled(total, known=now > 0, expected=expected)
        if plain:
            variances = matching_bands(filled, bands=bands)
        elif fitted is None and turn_number < _FITTED_ROUNDS:
            variances = fit_bands(filled, now, bands=bands, start=variances, short=short / grid.spacing)
        assert variances is not None
        if only_fit and turn_number == min(config.rounds, _FITTED_ROUNDS) - 1 and turn_number > 0:
            break
        expecting = variances if plain else [believed(v, certainty=certainty) for v in variances]
        solution = solve(
            total, now, expected=filled, bands=bands, fitted=expecting, iterations=config.iterations, device=device
        )
        expected = solution.expected
        worth = sceptical(weights * known, robust=robust, outlier=config.outlier)
        elastic = torch.from_numpy(solution.distortion).float()
        robust = _robust(total - expected, weights * known, outlier=config.outlier)
    assert variances is not None
    return Elastic(elastic, torch.from_numpy(solution.motion).float(), [] if plain else variances, worth)


def fit_bands(
    observed: Float64Array, weights: Float64Array, *, bands: Bands, start: list[Variances] | None, short: float
) -> list[Variances]:
    """Variances of each band, per coefficient.

    Args:
        observed: T `(K, Z, 2, y, x)`, no NaN.
        weights: `(K, Z, y, x)`.
        bands: of the frequencies.
        start: a first guess.
        short: wavelength in nodes, see `solve_elastic`.
    """
    plane = plane_weights(weights)
    model = SequenceModel(plane)
    spectrum = to_spectrum(observed)
    i, j = np.indices(bands.index.shape)
    shaped = i + j > 1  # the others hold what is affine, and that was taken out
    out = []
    for b in range(bands.count):
        part = spectrum[..., (bands.index == b) & shaped].reshape(*plane.shape, -1)
        part = part[..., :: max(1, part.shape[-1] // _FIT_COLUMNS)]
        found = fit_variances(model, part, start=start[b] if start else None, expected=None, tilt=None, distorted=True)
        least = LEAST_LONG if bands.wavelengths[b] >= short else LEAST_SHORT
        out.append(replace(found.variances, least=least))
    return out


def matching_bands(observed: Float64Array, *, bands: Bands) -> list[Variances]:
    """Variances that take all there is for distortion: with them the solve is plain least squares with a weak prior."""
    spectrum = to_spectrum(observed)
    size = [max(float(np.square(spectrum[..., bands.index == b]).mean()), 1e-8) for b in range(bands.count)]
    return [Variances(distortion=s, motion=1e-6 * s, correlation=0.8, noise=0.01 * s) for s in size]


def _filled(total: Float64Array, *, known: BoolArray, expected: Float64Array | None) -> Float64Array:
    """T with its unknown nodes filled: by what is expected, or smoothly."""
    if expected is not None:
        return np.asarray(np.where(known[:, :, None], total, expected))
    out = np.empty_like(total)
    for index in np.ndindex(*known.shape[:2]):
        values = torch.from_numpy(np.where(known[index], total[index], np.nan))
        out[index] = fill_unknown(values).numpy()
    return out


def _robust(residual: Float64Array, weights: Float64Array, *, outlier: float) -> Float64Array:
    """Cauchy weights by the residuals' lengths, in the robust scale of their k."""
    out = np.ones_like(weights)
    for k in range(len(weights)):
        length = np.linalg.norm(residual[k], axis=1)
        seen = weights[k] > 0
        if seen.any():
            scale = max(float(np.median(length[seen])) / 1.18, 1e-3)  # the median length of a 2-D Gaussian is 1.18 σ
            out[k] = 1.0 / (1.0 + (length / (outlier * scale)) ** 2)
    return out
