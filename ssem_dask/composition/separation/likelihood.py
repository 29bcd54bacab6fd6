"""The variances that make observations most likely.

With b = Hᵀ W T and A = Hᵀ W H / σ_e² + Q the posterior precision of the unknowns, their posterior mean is
x = A⁻¹ b / σ_e², and

    -2 log p(T) = log det A - log det Q + n log σ_e² + (Tᵀ W T - bᵀ x) / σ_e².

The quadratic part is a minimum over x, so its derivative is that of its terms with x held fixed (envelope theorem); the
derivatives of the determinants need A⁻¹ near its diagonal only. All of it costs O(Z); for few sections whole matrices
are faster (`dense_likelihood`). Maximised by L-BFGS-B over the logs of the variances and the logit of r.

Source: empirical Bayes; see `sequence` for the model and its symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from ssem_dask.composition.separation.dense_likelihood import DenseLikelihood
from ssem_dask.composition.separation.sequence import SequenceModel, Variances
from ssem_dask.types import Float64Array

CORRELATION_RANGE = (0.2, 0.99)
"""Range of the lag-1 autocorrelation of natural motion; 0.66 to 0.96 was seen in tissue at every scale."""
EXPECTED_CORRELATION = 0.8
"""Mode of its prior."""
_UNKNOWN_TILT = 100.0
"""Prior standard deviation of the mean motion, in rms observations, if nothing is known of it. It must not depend on
the variances; otherwise every column of a fit would penalise the largest one."""
_MOTION_SPREAD = 0.5
"""Standard deviation of log σ_m about its expectation."""
_EXPECTED_ERRATIC = 0.5
"""Expected σ_s in units of σ_m; 0.1 to 1 was seen in tissue."""
_ERRATIC_SPREAD = 0.5
"""Standard deviation of log σ_s about its expectation."""
_MAX_DENSE_SECTIONS = 160
"""Sections up to which whole matrices are faster than banded ones, measured with 1 to 64 columns."""
_LOG_ZERO, _LOG_MAX = -14.0, 8.0
"""Range of the log variances, relative to the mean square of the observations; the lower end is as good as 0."""
_LEAST_START_NOISE = -4.0
"""Least log noise of a first guess: less makes the first step so long that the search may never come back."""
_USUAL_LOGIT = float(
    np.log((EXPECTED_CORRELATION - CORRELATION_RANGE[0]) / (CORRELATION_RANGE[1] - EXPECTED_CORRELATION))
)
# One guess with as much distortion as motion, one with next to none: the likelihood may have a maximum at either.
_FIRST_GUESSES = [[-1.0, -1.0, -4.0, -3.0, _USUAL_LOGIT], [-8.0, 0.0, -4.0, -2.0, _USUAL_LOGIT]]


@dataclass(frozen=True, slots=True)
class Fit:
    """Variances that were fitted."""

    variances: Variances
    log_posterior: float
    """Their log likelihood plus log prior, up to a constant."""


def fit_variances(
    model: SequenceModel,
    observed: Float[Float64Array, "K Z P"],
    *,
    start: Variances | None,
    expected: float | None,
    tilt: float | None,
    distorted: bool,
) -> Fit:
    """Return the variances of maximum posterior, with weak priors of r, of σ_s and, if `expected` is given, of σ_m.

    A dozen values hardly separate white distortion that happens to run slowly from motion, nor either from erratic
    motion; then the priors decide. With hundreds of values they no longer count.

    Args:
        model: which observations there are.
        observed: T, P parameters with the same variances.
        start: a first guess; None tries several.
        expected: expected σ_m, unit of the observations; None for no prior of it.
        tilt: prior standard deviation of the mean motion, unit of the observations; None: as good as unknown.
        distorted: False holds σ_D at 0.
    """
    # Logs relative to the mean square of the observations: the search works alike in any unit.
    values = model.gather(observed)
    size = max(float(np.square(values).mean()) if values.size else 0.0, 1e-12)
    parameters = _Parameters(size=size, tilt=_UNKNOWN_TILT * size**0.5 if tilt is None else tilt)
    # Two implementations of one likelihood, chosen by speed alone.
    dense = len(values) > 0 and model.count <= _MAX_DENSE_SECTIONS
    likelihood = DenseLikelihood(model, values) if dense else BandedLikelihood(model, values)
    prior = _Prior(motion=None if expected is None else float(np.log(expected**2 / size)))

    def cost(x: Float64Array) -> tuple[float, Float64Array]:
        variances = parameters.variances(x)
        value, slope = likelihood.at(variances)
        slope[4] *= parameters.correlation_slope(variances.correlation)
        penalty, penalty_slope = prior.negative_log(x)
        return penalty - value, penalty_slope - slope

    starts = _FIRST_GUESSES if start is None else [parameters.logs(start)]
    # Without distortion the bounds of its log coincide, so the optimiser leaves it alone.
    if not distorted:
        starts = [[_LOG_ZERO, *first[1:]] for first in starts]
    best, value = _minimise(cost, starts, distorted=distorted)
    return Fit(parameters.variances(best), log_posterior=-value)


def _minimise(
    cost: Callable[[Float64Array], tuple[float, Float64Array]], starts: list[list[float]], *, distorted: bool
) -> tuple[Float64Array, float]:
    """Return the best of the minima found from several starts, and its cost."""
    # Tight tolerances: results must not depend on the last digits of the observations.
    minima = [
        minimize(
            cost,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=[(_LOG_ZERO, _LOG_MAX if distorted else _LOG_ZERO)] + [(_LOG_ZERO, _LOG_MAX)] * 3 + [(-6.0, 6.0)],
            options={"ftol": 1e-10, "gtol": 1e-4, "maxiter": 60},
        )
        for first in starts
    ]
    best = min(minima, key=lambda result: float(result.fun))
    return np.asarray(best.x), float(best.fun)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """The vector that is searched: logs of σ_D², σ_m², σ_e², σ_s² in units of `size`, and the logit of r."""

    size: float
    """Mean square of the observations."""
    tilt: float

    def variances(self, x: Float64Array) -> Variances:
        low, high = CORRELATION_RANGE
        d, m, e, s = (float(v) for v in self.size * np.exp(x[:4]))
        r = float(low + (high - low) / (1 + np.exp(-x[4])))
        return Variances(d, m, r, e, s, tilt=self.tilt)

    def correlation_slope(self, correlation: float) -> float:
        """Return the derivative of r by its logit."""
        low, high = CORRELATION_RANGE
        return (correlation - low) * (high - correlation) / (high - low)

    def logs(self, variances: Variances) -> list[float]:
        """Return the vector of given variances, kept inside the bounds."""
        low, high = CORRELATION_RANGE
        parts = (variances.distortion, variances.motion, variances.noise, variances.erratic)
        logs = np.log(np.clip([v / self.size for v in parts], np.exp(_LOG_ZERO), np.exp(_LOG_MAX)))
        logs[2] = max(logs[2], _LEAST_START_NOISE)
        # The logit is infinite at the ends of the range.
        share = np.clip((variances.correlation - low) / (high - low), 0.003, 0.997)
        return [*logs, float(np.log(share / (1 - share)))]


@dataclass(frozen=True, slots=True)
class _Prior:
    """Gaussian priors of the vector that is searched."""

    motion: float | None
    """Expected log σ_m² in units of the observations; None for no prior of it."""

    def negative_log(self, x: Float64Array) -> tuple[float, Float64Array]:
        """Return the negative log prior, up to a constant, and its derivative."""
        slope = np.zeros(5)
        slope[4] = x[4] - _USUAL_LOGIT
        # A hardly noticeable pull keeps motion and noise from running away if nothing determines them.
        slope[1:3] += 2e-2 * x[1:3]
        value = 0.5 * slope[4] ** 2 + 1e-2 * float((x[1:3] ** 2).sum())
        # The spreads are of log σ, the vector holds log σ²: hence the factors of 2.
        terms = [(x[3] - x[1] - 2.0 * np.log(_EXPECTED_ERRATIC), 2.0 * _ERRATIC_SPREAD, {3: 1.0, 1: -1.0})]
        if self.motion is not None:
            terms.append((x[1] - self.motion, 2.0 * _MOTION_SPREAD, {1: 1.0}))
        for deviation, spread, signs in terms:
            value += 0.5 * (deviation / spread) ** 2
            for index, sign in signs.items():
                slope[index] += sign * deviation / spread**2
        return float(value), slope


def evidence_of_distortion(
    model: SequenceModel,
    observed: Float[Float64Array, "K Z P"],
    *,
    fitted: Fit,
    expected: float | None,
    tilt: float | None,
) -> float:
    """Return the log ratio (nats) of the maximised posteriors of T with distortion and of T without any.

    Each model is taken at its own best variances, so this approximates the log Bayes factor: a true one would integrate
    over the variances.

    Args:
        model: as passed to `fit_variances`.
        observed: as passed to `fit_variances`.
        fitted: its result.
        expected: as passed to `fit_variances`.
        tilt: as passed to `fit_variances`.
    """
    best = fitted.variances
    # Distortion of the earlier fit must become motion. A fit that starts without it may not converge to that.
    starts = [best, replace(best, erratic=best.erratic + 2.0 * best.distortion)]
    without = [
        fit_variances(model, observed, start=s, expected=expected, tilt=tilt, distorted=False).log_posterior
        for s in starts
    ]
    # The model without distortion is nested in the other, so only an imperfect search can make it better.
    return max(fitted.log_posterior - max(without), 0.0)


class BandedLikelihood:
    """The likelihood of observations as a function of the variances, by banded matrices: O(Z)."""

    def __init__(self, model: SequenceModel, values: Float[Float64Array, "n P"]) -> None:
        """Compute what does not depend on the variances.

        Args:
            model: which observations there are, and their weights.
            values: the observations, P columns with the same variances.
        """
        self._model = model
        self._columns = values.shape[1]
        self._count = len(values)
        if self._columns > len(values):  # the likelihood depends on T Tᵀ alone, so n columns are enough
            left, sizes, _ = np.linalg.svd(values, full_matrices=False)
            values = left * sizes
        # Tᵀ W T and Hᵀ W T are all that is needed of the observations.
        weighted = model.precision[:, None] * values
        self._square = float((weighted * values).sum())
        self._adjoint: Float64Array = np.asarray(model.adjoint(weighted))

    def at(self, variances: Variances) -> tuple[float, Float64Array]:
        """Return the log likelihood, up to a constant, and its derivatives.

        The derivatives are by the logs of σ_D², σ_m², σ_e² and σ_s², and by r.
        """
        # Everything in units of prior standard deviations: variances of 0 are then no special case.
        factor = self._model.factor(variances)
        right = self._adjoint * (factor.scale / variances.noise)[:, None]
        unknowns = factor.solve_scaled(right)
        misfit = self._square / variances.noise - float(np.vdot(right, unknowns))
        determinant = factor.logdet + self._count * np.log(variances.noise)
        volume, prior = factor.logdet_derivatives(), factor.prior_derivatives(unknowns)
        gradient = [
            self._columns * volume.distortion + prior.distortion,
            self._columns * volume.motion + prior.motion,
            self._columns * (self._count + volume.noise) - misfit - prior.noise,
            self._columns * volume.erratic + prior.erratic,
            self._columns * volume.correlation + prior.correlation,
        ]
        return -0.5 * float(self._columns * determinant + misfit), -0.5 * np.array(gradient)
