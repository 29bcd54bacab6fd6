"""The elastic part of `relax`: what is left of pair fields without their affine parts, separated on the nodes.

Everything is computed where the pair fields are, on the CPU or on a GPU, and stays there; only the variances are fitted
on the CPU.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.coarsening import without_long
from ssem_dask.composition.relax.node_weights import LEAST_WEIGHT, plane_weights
from ssem_dask.composition.relax.relative import SplitPairs, observed_totals, without_affine
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.solve import solve
from ssem_dask.composition.relax.spectra import Bands, Waves, bands_of
from ssem_dask.composition.relax.uncertainty import sceptical
from ssem_dask.composition.separation.affine_separation import enough_pairs
from ssem_dask.composition.separation.likelihood import fit_variances
from ssem_dask.composition.separation.sequence import LEAST_LONG, LEAST_SHORT, SequenceModel, Variances, believed
from ssem_dask.composition.smooth import fill_unknown
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.types import Float64Array

SHORT_NODES = 8.0
"""Wavelength, in nodes of the pair fields, below which elastic distortion is expected to be weak: 640 nm with the
default spacing, a dozen thicknesses of a section."""
TRUSTED = 0.1
"""Weight, relative to the pair's, from which on a node's own value is where the solve begins; below it the more of what
lies around it or is expected, the less it is worth. The solve moves such nodes little, so a step here would be a step
in the fields."""
_FITTED_ROUNDS = 2
"""Rounds in which the variances are fitted; after two they no longer change."""
_FIT_COLUMNS = 64
"""Coefficients of a band that its variances are fitted to: more change nothing and take time."""


@dataclass(frozen=True, slots=True)
class Elastic:
    """The elastic part of a window, where its pair fields are."""

    fields: Tensor
    """e `(Z, 2, y, x)`, mip-0 px."""
    natural: Tensor
    """`(Z, 2, y, x)`: natural motion from z to z-1 on the aligned nodes, without its affine part."""
    fitted: list[Variances]
    """Of each band, per coefficient, px²."""
    weights: Tensor
    """`(K, Z, y, x)`: what each node of each pair was worth in the last solve, outliers less (`sceptical`)."""


def solve_elastic(
    split: SplitPairs,
    weights: Tensor,
    *,
    turn: Float64Array,
    grid: Grid,
    fitted: list[Variances] | None,
    certainty: float,
    config: RelaxConfig,
    base: Tensor | None = None,
    factor: int = 1,
    short: float,
    start: list[Variances] | None = None,
    only_fit: bool = False,
) -> Elastic:
    """The elastic part e_z of a window of sections, re-linearised and robust.

    With `base` only the short waves of a tile are solved for, those that blocks of `factor`² nodes cannot carry.

    Args:
        split: pair fields of the window; pairs that leave it have no weight. The solve runs on their device.
        weights: `(K, Z, y, x)`, on it as well.
        turn: C `(Z, 2, 3)`.
        grid: of the nodes.
        fitted: variances of each band; None fits them to this window.
        certainty: that sections were displaced one by one, of the affine level.
        config: rounds and robustness.
        base: `(Z, 2, y, x)`, long waves of e that are known already; then e is without them.
        factor: see `thin`; only with `base`.
        short: wavelength, px, below which distortion is expected to be weak, see `SHORT_NODES`.
        start: a first guess of the variances where they are fitted, as of another window.
        only_fit: the variances alone are wanted: then the solves after the last fit are left out, and the fields are
            those of the round before.
    """
    device, count = split.rest.device, weights.shape[1]
    bands = bands_of(grid.shape)
    elastic = torch.zeros(count, 2, *grid.shape, device=device)
    known_already = torch.zeros_like(elastic) if base is None else base.to(device)
    left, natural = torch.zeros_like(split.rest), torch.zeros_like(elastic)
    plain = config.natural_motion == "remove" or (fitted is None and not enough_pairs(plane_weights(weights)))
    expected: Tensor | None = None
    robust = worth = torch.ones_like(weights)
    there = torch.ones_like(weights, dtype=torch.bool)
    variances = fitted or start
    for number in range(config.rounds):
        total, left, there = observed_totals(split, turn=turn, elastic=known_already + elastic, natural=left, grid=grid)
        now = weights * there * robust
        if base is not None:
            doubted = _trust(now, plane_weights(now))
            total = without_long(_filled(total, doubted, expected=None), grid=grid, factor=factor)
        elif not plain:
            total = without_affine(total, now, grid=grid)
        plane = plane_weights(now)
        filled = _filled(total, _trust(now, plane), expected=expected)
        if plain:
            variances = matching_bands(filled, bands=bands)
        elif fitted is None and number < _FITTED_ROUNDS:
            variances = fit_bands(filled, plane, bands=bands, start=variances, short=short / grid.spacing)
        assert variances is not None
        if only_fit and number == min(config.rounds, _FITTED_ROUNDS) - 1 and number > 0:
            break
        expecting = variances if plain else [believed(v, certainty=certainty) for v in variances]
        solution = solve(
            total, now, plane=plane, expected=filled, bands=bands, fitted=expecting, iterations=config.iterations
        )
        expected, worth = solution.expected, robust
        elastic, natural = solution.distortion, solution.motion
        robust = _robust(total - expected, weights * there, outlier=config.outlier)
    assert variances is not None
    return Elastic(
        fields=elastic,
        natural=natural,
        fitted=[] if plain else variances,
        weights=sceptical(weights * there, robust=worth, outlier=config.outlier),
    )


def fit_bands(
    observed: Tensor, plane: Float64Array, *, bands: Bands, start: list[Variances] | None, short: float
) -> list[Variances]:
    """Variances of each band, per coefficient.

    Args:
        observed: T `(K, Z, 2, y, x)`, no NaN.
        plane: `(K, Z)`, what the pairs are worth, see `plane_weights`.
        bands: of the frequencies.
        start: a first guess.
        short: wavelength in nodes, see `solve_elastic`.
    """
    model = SequenceModel(plane)
    spectrum = _spectrum(observed)
    i, j = np.indices(bands.index.shape)
    shaped = i + j > 1  # the others hold what is affine, and that was taken out
    out = []
    for b in range(bands.count):
        part = spectrum[..., torch.from_numpy((bands.index == b) & shaped)].reshape(*plane.shape, -1)
        some = part[..., :: max(1, part.shape[-1] // _FIT_COLUMNS)].cpu().double().numpy()
        found = fit_variances(model, some, start=start[b] if start else None, expected=None, tilt=None, distorted=True)
        least = LEAST_LONG if bands.wavelengths[b] >= short else LEAST_SHORT
        out.append(replace(found.variances, least=least))
    return out


def matching_bands(observed: Tensor, *, bands: Bands) -> list[Variances]:
    """Variances that take all there is for distortion: with them the solve is plain least squares with a weak prior."""
    square = _spectrum(observed).double().square().mean(dim=(0, 1, 2)).cpu().numpy()
    size = [max(float(square[bands.index == b].mean()), 1e-8) for b in range(bands.count)]
    return [Variances(distortion=s, motion=1e-6 * s, correlation=0.8, noise=0.01 * s) for s in size]


def _spectrum(fields: Tensor) -> Tensor:
    return Waves.of((fields.shape[-2], fields.shape[-1]), device=fields.device).forth(fields)


def _trust(weights: Tensor, plane: Float64Array) -> Tensor:
    """How far nodes `(K, Z, y, x)` are believed before the solve, 0 to 1, by their weights relative to the pair's."""
    share = weights / torch.from_numpy(plane).to(weights).clamp(min=1e-12)[:, :, None, None]
    return ((share - LEAST_WEIGHT) / (TRUSTED - LEAST_WEIGHT)).clamp(0.0, 1.0)


def _filled(total: Tensor, trust: Tensor, *, expected: Tensor | None) -> Tensor:
    """T with nodes that are not trusted filled: by what is expected, or smoothly."""
    if expected is not None:
        return torch.lerp(expected, total, trust[:, :, None])
    out = total.clone()
    holed, known = (trust < 1).flatten(2).any(dim=2), (trust > 0).flatten(2).any(dim=2)
    out[holed & ~known] = 0.0
    for batch in plane_batches(torch.nonzero(holed & known), like=total):
        k, z = batch.unbind(dim=1)
        out[k, z] = fill_unknown(total[k, z], trust=trust[k, z])
    return out


def _robust(residual: Tensor, weights: Tensor, *, outlier: float) -> Tensor:
    """Cauchy weights by the residuals' lengths, in the robust scale of their k."""
    out = torch.ones_like(weights)
    for k in range(len(weights)):
        square = residual[k, :, 0].square().addcmul_(residual[k, :, 1], residual[k, :, 1])
        seen = weights[k] > 0
        if seen.any():
            # The median length of a 2-D Gaussian is 1.18 σ.
            scale = max(float(square[seen].median()) ** 0.5 / 1.18, 1e-3)
            out[k] = square.div_((outlier * scale) ** 2).add_(1.0).reciprocal_()
    return out
