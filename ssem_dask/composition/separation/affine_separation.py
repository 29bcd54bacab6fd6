"""One affine map per section from those between sections, undoing distortion and leaving natural motion alone.

With A_z the map aligned → source of section z and M_kz the pair map (fixed z → moving z-k), what an alignment leaves
between two sections is F = log(A_{z-k}⁻¹ M A_z). With a = log A, to first order T = F + a_{z-k} - a_z is the relative
displacement of the unaligned sections, of which `sequence` takes the white part as a_z. The log is not linear, so this
is iterated (Gauss-Newton); estimating a_z and not its increment keeps its prior the same in all iterations.

Nothing is chained, so nothing accumulates: sections that were aligned already keep the identity. A section without any
pair stays where it is, which is the best guess for independent distortion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float

from ssem_dask.composition.separation.affine_log import (
    GROUPS,
    from_parameters,
    has_parameters,
    rms_radius,
    to_parameters,
)
from ssem_dask.composition.separation.anchor_observations import Anchors
from ssem_dask.composition.separation.anchored import AnchoredSolution, AnchoredSolver, DriftResult
from ssem_dask.composition.separation.jumps import Jump, find_jumps, jump_offsets
from ssem_dask.composition.separation.likelihood import Fit, evidence_of_distortion, fit_variances
from ssem_dask.composition.separation.sequence import (
    SequenceModel,
    Variances,
    certainty_from_evidence,
    regularised_variances,
)
from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.robust import weights_of_squares
from ssem_dask.types import Float64Array, ShapeYX

MIN_SECTIONS = 8
"""Fewer neighbour pairs than this, less one, are too few to separate distortion from natural motion."""
EXPECTED_SLOPE = 0.05
"""Typical natural motion of a whole section, beside its mean tilt, as a share of the thickness; seen: 0.02 to 0.1."""
_TILT_SLOPE = {"shift": 0.3, "rotation": 0.1, "scale": 0.1, "shear": 0.1}
"""Typical mean tilt, as a share of the thickness (rms over the section). It lets tissue run obliquely, but keeps random
shifts and rotations of the sections, which add up between the first and the last, from passing for it."""
ITERATIONS = 5
_ANCHORED_ITERATIONS = 3
"""Additional iterations with anchors: sections may have far to go."""
_SHARE_ITERATIONS = 4
"""Last iteration that fits the share of drift; later ones keep it."""
OUTLIER = 3.0
"""Robust standard deviations at which a pair has lost half of its weight."""
_JUMP_RADII = 10.0
"""Standard deviation of a jump, in rms radii of the section: so wide that any jump is as good as another."""


@dataclass(frozen=True, slots=True)
class AffineSeparation:
    """Affines of the sections and what they rest on."""

    sections: Float[Float64Array, "Z 2 3"]
    """Aligned → source, full map, mip-0 px."""
    motion: Float[Float64Array, "Z 6"]
    """Natural motion from z to z-1, parameters of `affine_log`, px."""
    variances: dict[str, Variances]
    """Fitted variances of each group of parameters, px²."""
    evidence: float
    """Log posterior ratio of distortion against none, see `evidence_of_distortion`; NaN if `certainty` was passed."""
    certainty: float
    """Calibrated score read as P(displaced), see `certainty_from_evidence`."""
    robust: Float[Float64Array, "K Z"]
    """Cauchy weights, 1 for a pair that agrees with the others, 0 if there is none."""
    jumps: tuple[Jump, ...]
    """Jumps that were undone."""
    drift: DriftResult | None
    """Drift that was undone; None without anchors."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """Pair maps and the scales of the priors."""

    pairs: Float[Float64Array, "K Z 2 3"]
    """M, the identity where there is none."""
    weights: Float[Float64Array, "K Z"]
    """0 where there is no pair."""
    shape_yx: ShapeYX
    thickness: float
    statistics: Mapping[str, Variances] | None = None
    """Variances that are taken for fitted; None fits them."""

    def displacements(self, parameters: Float64Array) -> Float64Array:
        """Return T `(K, Z, 6)` with distortion included, linearised at a `(Z, 6)`; 0 if z-k does not exist."""
        # F = log(A_{z-k}⁻¹ M A_z), then T = F + a_{z-k} - a_z.
        sections = _homogeneous(from_parameters(parameters, shape_yx=self.shape_yx))
        inverse = np.linalg.inv(sections)
        out = np.zeros((*self.pairs.shape[:2], 6))
        for k in range(1, len(self.pairs) + 1):
            between = inverse[:-k] @ _homogeneous(self.pairs[k - 1, k:]) @ sections[k:]
            out[k - 1, k:] = to_parameters(between[:, :2], shape_yx=self.shape_yx) + parameters[:-k] - parameters[k:]
        return out

    @property
    def jump_sd(self) -> float:
        """Standard deviation of a jump, px."""
        return _JUMP_RADII * rms_radius(self.shape_yx)

    def model(self, robust: Float64Array, jumps: Sequence[Jump]) -> SequenceModel:
        return SequenceModel(self.weights * robust, jumps=[j.z for j in jumps], jump_sd=self.jump_sd)

    def fit(self, displacements: Float64Array, model: SequenceModel, name: str, start: Fit | None = None) -> Fit:
        """Fit the variances of one group of parameters."""
        if self.statistics is not None:
            return Fit(self.statistics[name], np.nan)
        return fit_variances(
            model,
            displacements[:, :, dict(GROUPS)[name]],
            start=start.variances if start else None,
            expected=EXPECTED_SLOPE * self.thickness,
            tilt=_TILT_SLOPE[name] * self.thickness,
            distorted=True,
        )

    def evidence(self, displacements: Float64Array, model: SequenceModel, fits: dict[str, Fit]) -> float:
        """Return the evidence of distortion, see `evidence_of_distortion`, summed over the groups."""
        return sum(
            evidence_of_distortion(
                model,
                displacements[:, :, members],
                fitted=fits[name],
                expected=EXPECTED_SLOPE * self.thickness,
                tilt=_TILT_SLOPE[name] * self.thickness,
            )
            for name, members in GROUPS
        )


@dataclass(frozen=True, slots=True)
class _Means:
    """Posterior means of one iteration, parameters of `affine_log`, px."""

    sections: Float64Array
    """a `(Z, 6)`, without the jumps."""
    motion: Float64Array
    """m `(Z, 6)`."""
    erratic: Float64Array
    """s `(Z, 6)`."""
    residual: Float64Array
    """`(K, Z, 6)`; NaN if nothing was observed."""


@dataclass(frozen=True, slots=True)
class _Iterate:
    """Estimates that one iteration passes on to the next."""

    parameters: Float64Array
    """a `(Z, 6)`, jumps included."""
    motion: Float64Array
    """m `(Z, 6)`."""
    robust: Float64Array
    """`(K, Z)`: Cauchy weights of the pairs."""
    jumps: tuple[Jump, ...]
    fits: dict[str, Fit]


def enough_pairs(weights: Float[Float64Array, "K Z"]) -> bool:
    """Return whether there are enough neighbour pairs to fit the statistics."""
    return bool(np.count_nonzero(weights[0] > 0) >= MIN_SECTIONS - 1)


def separate_affines(
    affines: Float[Float64Array, "K Z 2 3"],
    weights: Float[Float64Array, "K Z"],
    *,
    shape_yx: ShapeYX,
    thickness: float,
    certainty: float | None,
    undo_jumps: bool = True,
    known_jumps: Sequence[int] = (),
    kept_jumps: Sequence[int] = (),
    anchors: Anchors | None = None,
    statistics: Mapping[str, Variances] | None = None,
) -> AffineSeparation:
    """Find each section's affine map.

    Args:
        affines: M; [k-1, z]: fixed z → moving z-k, full map, mip-0 px; NaN if there is none.
        weights: of the pairs, 0 to 1.
        shape_yx: section, mip-0 px.
        thickness: of a section, mip-0 px.
        certainty: P(displaced), see `regularised_variances`; None computes it from the evidence.
        undo_jumps: whether to find places where all later sections are displaced alike, and to undo that.
        known_jumps: sections before which there certainly is such a place; these are undone in any case.
        kept_jumps: sections before which the tissue itself jumps. That is natural motion, but out of all proportion: so
            such a jump is taken out like one that is undone, and put back at the end.
        anchors: landmarks and far pairs that determine drift; None leaves drift in.
        statistics: variances of each group of parameters, fitted to more than these sections; None fits them here.

    Raises:
        ValueError: too few pairs, see `enough_pairs`.
    """
    problem = replace(_make_problem(affines, weights, shape_yx=shape_yx, thickness=thickness), statistics=statistics)
    count = weights.shape[1]
    # Iteration 0 sees the pairs as they are: it finds the jumps, and judges whether there is distortion at all.
    parameters = np.zeros((count, 6))
    displacements = problem.displacements(parameters)
    jumps: tuple[Jump, ...] = ()
    fits: dict[str, Fit] = {}
    if undo_jumps or known_jumps or kept_jumps:
        fit = partial(problem.fit, displacements)
        known, rejected = [*known_jumps, *kept_jumps], () if undo_jumps else range(count)
        search = find_jumps(
            displacements, problem.weights, jump_sd=problem.jump_sd, fit=fit, known=known, kept=rejected
        )
        jumps, fits = search.jumps, search.fits
    model = problem.model(np.ones_like(problem.weights), jumps)
    # The search for jumps has fitted this very model already.
    fits = fits or {name: problem.fit(displacements, model, name) for name, _ in GROUPS}
    evidence = np.nan
    if certainty is None:
        evidence = problem.evidence(displacements, model, fits)
        certainty = certainty_from_evidence(evidence, pairs=int(np.count_nonzero(problem.weights[0])))
    priors = {name: regularised_variances(fit.variances, certainty=certainty) for name, fit in fits.items()}
    iterate = _advance(problem, _solve(displacements, model, priors), priors, jumps=jumps, fits=fits)

    # Anchors enter from iteration 1 on: the first solve has to show what there is without them.
    solver = None if anchors is None else AnchoredSolver(anchors, shape_yx)
    anchored: AnchoredSolution | None = None
    for iteration in range(1, ITERATIONS if solver is None else ITERATIONS + _ANCHORED_ITERATIONS):
        # Linearise where the last iteration led, with its weights; variances start from its fits.
        displacements = problem.displacements(iterate.parameters)
        model = problem.model(iterate.robust, iterate.jumps)
        fits = {name: problem.fit(displacements, model, name, iterate.fits[name]) for name, _ in GROUPS}
        priors = {name: regularised_variances(fit.variances, certainty=certainty) for name, fit in fits.items()}
        means = _solve(displacements, model, priors)
        if solver is not None:
            # The solve without drift comes first: its motion bounds how far the drift may walk.
            anchored = solver.solve(
                displacements,
                model,
                variances=priors,
                motion=means.motion,
                current=iterate.parameters,
                state=None if anchored is None else anchored.state,
                shares=anchored.shares if anchored is not None and iteration > _SHARE_ITERATIONS else None,
            )
            means = _Means(anchored.sections, anchored.motion, anchored.erratic, anchored.residual)
        iterate = _advance(problem, means, priors, jumps=iterate.jumps, fits=fits)
    kept = [jump for jump in iterate.jumps if jump.z in kept_jumps]
    parameters, motion = iterate.parameters - jump_offsets(kept, count=count), iterate.motion.copy()
    for jump in kept:
        motion[jump.z] += jump.step
    return AffineSeparation(
        sections=from_parameters(parameters, shape_yx=shape_yx),
        motion=motion,
        variances={name: fit.variances for name, fit in iterate.fits.items()},
        evidence=evidence,
        certainty=certainty,
        robust=np.where(problem.weights > 0, iterate.robust, 0.0),
        jumps=tuple(jump for jump in iterate.jumps if jump.z not in kept_jumps),
        drift=None if anchored is None else DriftResult.of(anchored),
    )


@dataclass(frozen=True, slots=True)
class KnownStatistics:
    """Statistics of a volume that were fitted before, by which some of its sections are separated again."""

    variances: dict[str, Variances]
    """Variances of each group of parameters, px²."""
    certainty: float
    """P(displaced)."""
    jumps: tuple[int, ...] = ()
    """Sections before which there is a jump that was undone."""


@dataclass(frozen=True, slots=True)
class LocalSeparation:
    """Sections that were separated by known statistics."""

    parameters: Float[Float64Array, "Z 6"]
    """a, of `affine_log`, px."""
    motion: Float[Float64Array, "Z 6"]
    robust: Float[Float64Array, "K Z"]
    """Cauchy weights, 0 if there is no pair."""


def separate_by(
    affines: Float[Float64Array, "K Z 2 3"],
    weights: Float[Float64Array, "K Z"],
    *,
    start: Float[Float64Array, "Z 6"],
    shape_yx: ShapeYX,
    thickness: float,
    known: KnownStatistics,
) -> LocalSeparation:
    """Find affine maps of some sections, with the statistics of the whole volume; any number of pairs will do.

    Args:
        affines: M, as of `separate_affines`.
        weights: of the pairs.
        start: a of the sections to begin with.
        shape_yx: section, mip-0 px.
        thickness: of a section, mip-0 px.
        known: statistics.
    """
    problem = _usable_problem(affines, weights, shape_yx=shape_yx, thickness=thickness)
    priors = {name: regularised_variances(v, certainty=known.certainty) for name, v in known.variances.items()}
    jumps = tuple(Jump(z, np.zeros(6), 0.0) for z in known.jumps)
    iterate = _Iterate(start, np.zeros_like(start), np.ones_like(problem.weights), jumps, {})
    for _ in range(ITERATIONS):
        displacements = problem.displacements(iterate.parameters)
        means = _solve(displacements, problem.model(iterate.robust, jumps), priors)
        iterate = _advance(problem, means, priors, jumps=jumps, fits={})
    robust = np.where(problem.weights > 0, iterate.robust, 0.0)
    return LocalSeparation(iterate.parameters, iterate.motion, robust)


def _usable_problem(affines: Float64Array, weights: Float64Array, *, shape_yx: ShapeYX, thickness: float) -> _Problem:
    """Return the problem without pairs that do not exist or have no logarithm."""
    steps, count = weights.shape
    # Pairs whose moving section would be before the first section do not exist.
    usable = has_parameters(affines) & (weights > 0) & (np.arange(count)[None] >= np.arange(1, steps + 1)[:, None])
    weights = np.where(usable, weights, 0.0)
    # The identity replaces missing pairs, whose weight is 0, so that logarithms stay finite.
    pairs = np.where(usable[:, :, None, None], affines, IDENTITY)
    return _Problem(pairs, weights, shape_yx=shape_yx, thickness=thickness)


def _make_problem(affines: Float64Array, weights: Float64Array, *, shape_yx: ShapeYX, thickness: float) -> _Problem:
    """Return the problem without pairs that do not exist; ValueError if too few remain."""
    problem = _usable_problem(affines, weights, shape_yx=shape_yx, thickness=thickness)
    if not enough_pairs(problem.weights):
        raise ValueError(
            f"separate_affines: {np.count_nonzero(problem.weights[0] > 0)} neighbour pairs; wanted {MIN_SECTIONS - 1}."
        )
    return problem


def _solve(displacements: Float64Array, model: SequenceModel, priors: dict[str, Variances]) -> _Means:
    """Return the posterior means without drift, one group of parameters after the other."""
    # To first order the six parameters are independent, so each group is a sequence of its own.
    sections, motion, erratic = (np.zeros((model.count, 6)) for _ in range(3))
    residual = np.zeros_like(displacements)
    for name, members in GROUPS:
        posterior = model.solve(displacements[:, :, members], priors[name])
        sections[:, members], motion[:, members] = posterior.distortion, posterior.motion
        erratic[:, members] = posterior.erratic
        residual[:, :, members] = posterior.residual
    return _Means(sections, motion, erratic, residual)


def _advance(
    problem: _Problem, means: _Means, priors: dict[str, Variances], *, jumps: tuple[Jump, ...], fits: dict[str, Fit]
) -> _Iterate:
    """Return the next iterate: jumps of their present size, and weights by the residuals (IRLS)."""
    # Jumps are part of the posterior: s_z at the jump, which the next iteration estimates again.
    jumps = tuple(replace(jump, step=means.erratic[jump.z]) for jump in jumps)
    return _Iterate(
        parameters=means.sections + jump_offsets(jumps, count=len(means.sections)),
        motion=means.motion,
        robust=_cauchy_weights(_chi_squares(means.residual, priors), problem.weights),
        jumps=jumps,
        fits=fits,
    )


def _chi_squares(residual: Float64Array, variances: dict[str, Variances]) -> Float64Array:
    """Return squared residuals of the pairs, in units of their noise, summed over the parameters `(K, Z)`."""
    # A pair that is wrong is wrong in all six parameters, so it has one weight.
    squares = np.nan_to_num(residual) ** 2
    return np.asarray(sum(squares[:, :, members].sum(axis=2) / variances[name].noise for name, members in GROUPS))


def _cauchy_weights(chi_squares: Float64Array, weights: Float64Array) -> Float64Array:
    """Return Cauchy weights of the pairs by their squared residuals, in their own robust scale."""
    steps = np.arange(1, len(weights) + 1)[:, None]
    # Noise grows with the distance k, and the less a pair is determined.
    relative = chi_squares * weights / steps**2
    median = np.median(relative[weights > 0]) if (weights > 0).any() else 1.0
    return weights_of_squares(relative / (max(float(median), 1e-12) * OUTLIER**2), kind="cauchy")


def _homogeneous(affines: Float64Array) -> Float64Array:
    """Return `(n, 3, 3)` of `(n, 2, 3)`."""
    last = np.broadcast_to([[0.0, 0.0, 1.0]], (len(affines), 1, 3))
    return np.concatenate([affines, last], axis=1)
