"""The elastic part of `relax`: pair fields without their affine parts, separated on the nodes.

Three ways to find it, which share their rounds. `fit_elastic` fits the variances alone, `solve_elastic` solves with
variances that are known, and `relax_elastic` does both in one pass. Each round re-linearises the pair fields where the
solution leads, solves, and weighs the observations by their residuals (IRLS).

If natural motion is to be removed, or too few sections are there to fit variances to, neighbours are made to match:
all is taken for distortion, the affine part included.

Everything is computed on the device of the pair fields; only the variances are fitted on the CPU.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.composition.relax.coarsening import high_frequencies
from ssem_dask.composition.relax.node_weights import MIN_WEIGHT, pair_weights
from ssem_dask.composition.relax.relative import SplitPairs, relative_displacements, remove_affine_parts
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.solve import solve_on_nodes
from ssem_dask.composition.relax.spectra import Bands, CosineTransform
from ssem_dask.composition.relax.uncertainty import discount_outliers
from ssem_dask.composition.separation.affine_separation import enough_pairs
from ssem_dask.composition.separation.likelihood import fit_variances
from ssem_dask.composition.separation.sequence import (
    MIN_DISTORTION_HIGH_FREQUENCY,
    MIN_DISTORTION_LOW_FREQUENCY,
    SequenceModel,
    Variances,
    regularised_variances,
)
from ssem_dask.composition.smooth import fill_unknown
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.types import Float64Array

HIGH_FREQUENCY_NODES = 8.0
"""Wavelength, in nodes of the pair fields, below which elastic distortion is expected to be weak: 640 nm with the
default spacing, a dozen thicknesses of a section."""
FULL_TRUST = 0.1
"""Weight, relative to the pair's, from which on the solve begins with a node's own value. Below it, the smaller the
weight, the more is taken from the surroundings or from what is expected. The solve moves such nodes little, so a step
here would be a step in the fields (docs/decisions/0023)."""
_FIT_ROUNDS = 2
"""Rounds in which the variances are fitted; after two they no longer change."""
_FIT_COLUMNS = 64
"""Coefficients of a band that its variances are fitted to: more change nothing and take time."""
_MEDIAN_LENGTH = 1.18
"""Median length of a 2-D Gaussian vector, in standard deviations per component."""
_LEAST_SCALE_PX = 1e-3
"""Least robust scale of residuals: without it, exact data would make every weight 0/0."""


@dataclass(frozen=True, slots=True)
class LowFrequencies:
    """A low-frequency part of e that is known already; what remains is solved for in a tile."""

    fields: Float[Tensor, "Z 2 y x"]
    """Prolonged from blocks of nodes."""
    factor: int
    """Nodes per side of a block, see `restrict`."""


@dataclass(frozen=True, slots=True)
class ElasticProblem:
    """Pair fields of a window of sections, and what is known about them. The device is that of the pair fields."""

    split: SplitPairs
    """Pair fields of the window; pairs that leave it have no weight."""
    weights: Float[Tensor, "K Z y x"]
    """Weights of the nodes."""
    affine_correction: Float[Float64Array, "Z 2 3"]
    """C."""
    grid: Grid
    """Grid of the nodes."""
    certainty: float
    """P(displaced), from the affine level."""
    config: RelaxConfig
    """Rounds and robustness."""
    high_frequency_px: float
    """Wavelength below which distortion is expected to be weak, see `HIGH_FREQUENCY_NODES`."""
    low_frequencies: LowFrequencies | None = None
    """Part of e that is known already; the solution is without it. None solves for all frequencies."""

    def within(self, sections: slice, *, certainty: float) -> "ElasticProblem":
        """Return the problem of some of the sections, without the pairs that lead out of them."""
        if sections == slice(0, self.weights.shape[1]):
            return replace(self, certainty=certainty)
        split, low = self.split, self.low_frequencies
        affine, elastic = split.affine[:, sections].copy(), split.elastic[:, sections].clone()
        weights = self.weights[:, sections].clone()
        steps, count = affine.shape[:2]
        leads_out = np.arange(count) < np.arange(1, steps + 1)[:, None]
        if sections.start:
            affine[leads_out], elastic[torch.from_numpy(leads_out)] = np.nan, torch.nan
            weights[torch.from_numpy(leads_out)] = 0.0
        return replace(
            self,
            split=SplitPairs(affine, elastic),
            weights=weights,
            affine_correction=self.affine_correction[sections],
            certainty=certainty,
            low_frequencies=None if low is None else LowFrequencies(low.fields[sections], low.factor),
        )


@dataclass(frozen=True, slots=True)
class ElasticSolution:
    """The elastic part of a window, on the device of its pair fields."""

    fields: Float[Tensor, "Z 2 y x"]
    """e, mip-0 px."""
    natural: Float[Tensor, "Z 2 y x"]
    """Natural motion from z to z-1 on the aligned nodes, without its affine part."""
    variances: list[Variances]
    """Variances of each band, per coefficient, px²; empty if neighbours were made to match."""
    weights: Float[Tensor, "K Z y x"]
    """Weights of the last solve, outliers discounted (`discount_outliers`)."""


def fit_elastic(problem: ElasticProblem) -> list[Variances]:
    """Return fitted variances of each band; none if neighbours are to match.

    The solve after the last fit is left out, since the variances do not depend on it.
    """
    if _must_match(problem):
        return []
    rounds = _Rounds(problem, matching=False)
    # The first fit sees the pair fields where they are given; the second sees them where the first solution leads.
    rounds.linearise()
    variances = rounds.fit(start=None)
    for _ in range(1, min(problem.config.rounds, _FIT_ROUNDS)):
        rounds.solve(rounds.priors(variances))
        rounds.linearise()
        variances = rounds.fit(start=variances)
    return variances


def solve_elastic(problem: ElasticProblem, variances: list[Variances]) -> ElasticSolution:
    """Return the elastic part, with known variances.

    Args:
        problem: pair fields of a window.
        variances: of each band, as of `fit_elastic`; if there are none, neighbours are made to match.
    """
    # Without variances there is nothing to separate by: the same fallback as in `relax_elastic`.
    matching = problem.config.natural_motion == "remove" or not variances
    rounds = _Rounds(problem, matching=matching)
    for _ in range(problem.config.rounds):
        rounds.linearise()
        rounds.solve(rounds.matching_variances() if matching else rounds.priors(variances))
    return rounds.solution([] if matching else variances)


def relax_elastic(problem: ElasticProblem) -> ElasticSolution:
    """Fit the variances in the first rounds of the solve itself, and return the elastic part."""
    if _must_match(problem):
        return solve_elastic(problem, [])
    rounds = _Rounds(problem, matching=False)
    variances: list[Variances] | None = None
    for number in range(problem.config.rounds):
        rounds.linearise()
        # Later rounds keep the variances: fitting them again would change nothing and cost as much as the solve.
        if variances is None or number < _FIT_ROUNDS:
            variances = rounds.fit(start=variances)
        rounds.solve(rounds.priors(variances))
    assert variances is not None
    return rounds.solution(variances)


def _must_match(problem: ElasticProblem) -> bool:
    """Return whether neighbours are made to match: on request, or because there are too few sections for a fit."""
    return problem.config.natural_motion == "remove" or not enough_pairs(pair_weights(problem.weights))


class _Rounds:
    """The state of the rounds. It holds the large tensors of one round, so that the next one replaces them."""

    def __init__(self, problem: ElasticProblem, *, matching: bool) -> None:
        split, low = problem.split, problem.low_frequencies
        self._problem = problem
        self._matching = matching
        self._bands = Bands.of(problem.grid.shape)
        # e = known part + unknown part; the solve is for the second one alone.
        self._elastic = split.elastic.new_zeros(problem.weights.shape[1], 2, *problem.grid.shape)
        self._known_part = torch.zeros_like(self._elastic) if low is None else low.fields.to(split.elastic.device)
        self._motion_left, self._natural = torch.zeros_like(split.elastic), torch.zeros_like(self._elastic)
        # None until the first solve: before it, unknown nodes can only be filled from their surroundings.
        self._expected: Tensor | None = None
        self._robust = self._used_robust = torch.ones_like(problem.weights)

    def linearise(self) -> None:
        """Observe T where the solution leads, and fill it where it is not known."""
        problem = self._problem
        self._displacements, self._motion_left, self._known = relative_displacements(
            problem.split,
            affine_correction=problem.affine_correction,
            elastic=self._known_part + self._elastic,
            motion=self._motion_left,
            grid=problem.grid,
        )
        # Three reasons for a small weight: low confidence, unknown where the solution leads, an outlier.
        self._weights = problem.weights * self._known * self._robust
        if problem.low_frequencies is not None:
            # Restriction needs values everywhere, so unknown nodes are filled before their low frequencies are removed.
            trust = _trust(self._weights, pair_weights(self._weights))
            filled = _fill_untrusted(self._displacements, trust, expected=None)
            factor = problem.low_frequencies.factor
            self._displacements = high_frequencies(filled, grid=problem.grid, factor=factor)
        # If neighbours are made to match, no affine level has answered for the affine part, so it stays in T.
        elif not self._matching:
            self._displacements = remove_affine_parts(self._displacements, self._weights, grid=problem.grid)
        self._by_pair = pair_weights(self._weights)
        trust = _trust(self._weights, self._by_pair)
        self._filled = _fill_untrusted(self._displacements, trust, expected=self._expected)

    def fit(self, start: list[Variances] | None) -> list[Variances]:
        """Fit the variances of each band to the observations."""
        problem = self._problem
        high_frequency_nodes = problem.high_frequency_px / problem.grid.spacing
        return fit_bands(
            self._filled, self._by_pair, bands=self._bands, start=start, high_frequency_nodes=high_frequency_nodes
        )

    def matching_variances(self) -> list[Variances]:
        """Return variances that make neighbours match."""
        return matching_variances(self._filled, bands=self._bands)

    def priors(self, variances: list[Variances]) -> list[Variances]:
        """Return the prior variances of a solve."""
        return [regularised_variances(v, certainty=self._problem.certainty) for v in variances]

    def solve(self, priors: list[Variances]) -> None:
        """Solve, and weigh the observations by their residuals for the next round."""
        config = self._problem.config
        solution = solve_on_nodes(
            self._displacements,
            self._weights,
            by_pair=self._by_pair,
            expected=self._filled,
            bands=self._bands,
            priors=priors,
            iterations=config.iterations,
        )
        self._expected, self._used_robust = solution.expected, self._robust
        self._elastic, self._natural = solution.distortion, solution.motion
        # IRLS: one new set of weights per solve, in the robust scale of the present residuals.
        residual = self._displacements - self._expected
        self._robust = _cauchy_weights(residual, self._problem.weights * self._known, outlier=config.outlier)

    def solution(self, variances: list[Variances]) -> ElasticSolution:
        """Return the result of the last solve."""
        # The weights that the solve used, not those by its residuals: these belong to the next round.
        return ElasticSolution(
            fields=self._elastic,
            natural=self._natural,
            variances=variances,
            weights=discount_outliers(
                self._problem.weights * self._known,
                robust=self._used_robust,
                outlier=self._problem.config.outlier,
            ),
        )


def fit_bands(
    observed: Float[Tensor, "K Z 2 y x"],
    by_pair: Float[Float64Array, "K Z"],
    *,
    bands: Bands,
    start: list[Variances] | None,
    high_frequency_nodes: float,
) -> list[Variances]:
    """Return the variances of each band, per coefficient.

    Args:
        observed: T, no NaN.
        by_pair: weights of the pairs, see `pair_weights`.
        bands: of the frequencies.
        start: a first guess.
        high_frequency_nodes: wavelength in nodes below which distortion is expected to be weak.
    """
    model = SequenceModel(by_pair)
    spectrum = _spectrum(observed)
    out = []
    # Bands are independent: a band has its own variances, pooled over its coefficients and both components.
    for band in range(bands.count):
        # Without the coefficients that hold the affine part, which was taken out.
        part = spectrum[..., torch.from_numpy(bands.elastic(band))].reshape(*by_pair.shape, -1)
        sample = part[..., :: max(1, part.shape[-1] // _FIT_COLUMNS)].cpu().double().numpy()
        first = start[band] if start else None
        fit = fit_variances(model, sample, start=first, expected=None, tilt=None, distorted=True)
        # A section bends like a sheet: the floor of its distortion depends on the wavelength.
        is_low = bands.wavelengths[band] >= high_frequency_nodes
        floor = MIN_DISTORTION_LOW_FREQUENCY if is_low else MIN_DISTORTION_HIGH_FREQUENCY
        out.append(replace(fit.variances, min_distortion=floor))
    return out


def matching_variances(observed: Float[Tensor, "K Z 2 y x"], *, bands: Bands) -> list[Variances]:
    """Return variances that take all there is for distortion: the solve becomes least squares with a weak prior."""
    square = _spectrum(observed).double().square().mean(dim=(0, 1, 2)).cpu().numpy()
    # Motion next to nothing and noise of 1 %: the posterior mean follows the observations wherever there are any.
    sizes = [max(float(square[bands.index == band].mean()), 1e-8) for band in range(bands.count)]
    return [Variances(distortion=s, motion=1e-6 * s, correlation=0.8, noise=0.01 * s) for s in sizes]


def _spectrum(fields: Tensor) -> Tensor:
    """Return the cosine coefficients of fields, on their device."""
    return CosineTransform.of((fields.shape[-2], fields.shape[-1]), device=fields.device).forward(fields)


def _trust(weights: Tensor, by_pair: Float64Array) -> Tensor:
    """Return how far nodes `(K, Z, y, x)` are trusted before the solve, 0 to 1, by their weights over the pair's."""
    # A ramp and no threshold, since a jump of trust would be a jump in the filled field.
    share = weights / torch.from_numpy(by_pair).to(weights).clamp(min=1e-12)[:, :, None, None]
    return ((share - MIN_WEIGHT) / (FULL_TRUST - MIN_WEIGHT)).clamp(0.0, 1.0)


def _fill_untrusted(displacements: Tensor, trust: Tensor, *, expected: Tensor | None) -> Tensor:
    """Return T with untrusted nodes filled: by what the last solve expects, or smoothly before the first one."""
    # The prediction of the last solve is better than smoothness: it depends on the neighbour sections.
    if expected is not None:
        return torch.lerp(expected, displacements, trust[:, :, None])
    out = displacements.clone()
    has_holes, has_known = (trust < 1).flatten(2).any(dim=2), (trust > 0).flatten(2).any(dim=2)
    # Of a pair without any known node nothing can be continued; its weight is 0, so any finite value will do.
    out[has_holes & ~has_known] = 0.0
    for batch in plane_batches(torch.nonzero(has_holes & has_known), like=displacements):
        k, z = batch.unbind(dim=1)
        out[k, z] = fill_unknown(displacements[k, z], trust=trust[k, z])
    return out


def _cauchy_weights(residual: Tensor, weights: Tensor, *, outlier: float) -> Tensor:
    """Return Cauchy weights by the lengths of the residuals, in the robust scale of their k.

    As `field.robust.weights_of_squares`, but in place: these are among the largest tensors of a solve.
    """
    out = torch.ones_like(weights)
    # A scale per distance k, since noise grows with k.
    for k in range(len(weights)):
        square = residual[k, :, 0].square().addcmul_(residual[k, :, 1], residual[k, :, 1])
        observed = weights[k] > 0
        if observed.any():
            scale = max(float(square[observed].median()) ** 0.5 / _MEDIAN_LENGTH, _LEAST_SCALE_PX)
            out[k] = square.div_((outlier * scale) ** 2).add_(1.0).reciprocal_()
    return out
