"""The variances that make observations most likely.

With b = Hᵀ W T and A = Hᵀ W H / σ_e² + Q the posterior precision of the unknowns, their posterior mean is
x = A⁻¹ b / σ_e², and

    -2 log p(T) = log det A - log det Q + n log σ_e² + (Tᵀ W T - bᵀ x) / σ_e².

The quadratic part is a minimum over x, so its derivative is that of its terms with x held; those of the determinants
need A⁻¹ near its diagonal only. All of it costs O(Z); for few sections whole matrices are faster (`short`). Maximised
by L-BFGS-B.

Source: empirical Bayes; see `separation` for the model and its symbols.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from ssem_dask.composition.separation.dense_likelihood import ShortLikelihood
from ssem_dask.composition.separation.sequence import SequenceModel, Variances
from ssem_dask.types import Float64Array

CORRELATION_RANGE = (0.2, 0.99)
"""Lag-1 autocorrelation of natural motion; .66 to .96 has been seen in tissue at every scale."""
CORRELATION_EXPECTED = 0.8
_UNKNOWN_TILT = 100.0
"""In rms observations: as good as unknown. It must not hang on the variances, or each column of a fit would count
against the largest of them."""
_MOTION_SPREAD = 0.5
"""Standard deviation of log σ_m about what is expected of it."""
_ERRATIC_EXPECTED = 0.5
"""σ_s in units of σ_m; .1 to 1 was seen in tissue."""
_ERRATIC_SPREAD = 0.5
"""Standard deviation of log σ_s about that."""
_SHORT = 160
"""Sections up to which whole matrices are faster than banded ones, measured with 1 to 64 columns."""
_NONE = -14.0
"""Log of a variance, relative to that of the observations, that is as good as 0."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Variances that were fitted."""

    variances: Variances
    score: float
    """Their log likelihood, up to a constant, less what speaks against them beforehand."""


def fit_variances(
    model: SequenceModel,
    observed: Float64Array,
    *,
    start: Variances | None,
    expected: float | None,
    tilt: float | None,
    distorted: bool,
) -> Fit:
    """The variances that make T `(K, Z, P)` most likely, with weak expectations of r, σ_s and, if given, of σ_m.

    A dozen values hardly tell white distortion that happens to run slowly from motion, nor either from erratic
    motion; then the expectations decide. With hundreds they no longer count.

    Args:
        model: which observations there are.
        observed: parameters with the same variances.
        start: a first guess; None tries several.
        expected: σ_m, unit of the observations; None expects nothing.
        tilt: standard deviation of the mean motion, unit of the observations; None: as good as unknown.
        distorted: False holds σ_D at 0.
    """
    values = model.pick(observed)
    total = max(float(np.square(values).mean()) if values.size else 0.0, 1e-12)
    short = len(values) > 0 and model.count <= _SHORT
    likelihood = ShortLikelihood(model, values) if short else Likelihood(model, values)
    low, high = CORRELATION_RANGE
    usual = float(np.log((CORRELATION_EXPECTED - low) / (high - CORRELATION_EXPECTED)))
    likely = None if expected is None else float(np.log(expected**2 / total))

    def variances(x: Float64Array) -> Variances:
        d, m, e, s = (float(v) for v in total * np.exp(x[:4]))
        r = float(low + (high - low) / (1 + np.exp(-x[4])))
        return Variances(d, m, r, e, s, tilt=_UNKNOWN_TILT * total**0.5 if tilt is None else tilt)

    def cost(x: Float64Array) -> tuple[float, Float64Array]:
        at = variances(x)
        value, by = likelihood.at(at)
        by[4] *= (at.correlation - low) * (high - at.correlation) / (high - low)
        against, slope = _against(x, usual=usual, likely=likely)
        return against - value, slope - by

    if start is None:
        starts = [[-1.0, -1.0, -4.0, -3.0, usual], [-8.0, 0.0, -4.0, -2.0, usual]]
    else:
        parts = (start.distortion, start.motion, start.noise, start.erratic)
        logs = np.log(np.clip([v / total for v in parts], np.exp(_NONE), np.exp(8.0)))
        logs[2] = max(logs[2], -4.0)  # too little noise makes the first step so long that it may never come back
        share = np.clip((start.correlation - low) / (high - low), 0.003, 0.997)
        starts = [[*logs, float(np.log(share / (1 - share)))]]
    if not distorted:
        starts = [[_NONE, *first[1:]] for first in starts]
    # Tight tolerances: results must not hang on the last digits of the observations.
    found = [
        minimize(
            cost,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=[(_NONE, 8.0 if distorted else _NONE)] + [(_NONE, 8.0)] * 3 + [(-6.0, 6.0)],
            options={"ftol": 1e-10, "gtol": 1e-4, "maxiter": 60},
        )
        for first in starts
    ]
    best = min(found, key=lambda result: float(result.fun))
    return Fit(variances(np.asarray(best.x)), score=-float(best.fun))


def evidence_of_distortion(
    model: SequenceModel, observed: Float64Array, *, fitted: Fit, expected: float | None, tilt: float | None
) -> float:
    """By how much, in natural logs, T is more likely with distortion than without any.

    Args:
        model: as it was given to `fit_variances`.
        observed: as well.
        fitted: what it found.
        expected: as for `fit_variances`.
        tilt: as well.
    """
    found = fitted.variances
    # What was distortion has to become motion, and a fit that starts without it may not get there by itself.
    starts = [found, replace(found, erratic=found.erratic + 2.0 * found.distortion)]
    calm = [
        fit_variances(model, observed, start=s, expected=expected, tilt=tilt, distorted=False).score for s in starts
    ]
    return max(fitted.score - max(calm), 0.0)


class Likelihood:
    """Of given observations, as a function of the variances."""

    def __init__(self, model: SequenceModel, values: Float64Array) -> None:
        """Set up.

        Args:
            model: which observations there are, and what they are worth.
            values: `(n, P)`: P columns with the same variances.
        """
        self._model = model
        self._columns = values.shape[1]
        self._count = len(values)
        if self._columns > len(values):  # columns count by their products alone
            left, sizes, _ = np.linalg.svd(values, full_matrices=False)
            values = left * sizes
        weighted = model.precision[:, None] * values
        self._square = float((weighted * values).sum())
        self._adjoint: Float64Array = np.asarray(model.adjoint(weighted))

    def at(self, variances: Variances) -> tuple[float, Float64Array]:
        """Log likelihood, up to a constant, and its derivatives by the logs of σ_D², σ_m², σ_e² and σ_s², and by r."""
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


def _against(x: Float64Array, *, usual: float, likely: float | None) -> tuple[float, Float64Array]:
    """What speaks against logs of variances beforehand, and its derivative."""
    slope = np.zeros(5)
    slope[4] = x[4] - usual
    slope[1:3] += 2e-2 * x[1:3]
    value = 0.5 * slope[4] ** 2 + 1e-2 * float((x[1:3] ** 2).sum())
    pairs = [(x[3] - x[1] - 2.0 * np.log(_ERRATIC_EXPECTED), 2.0 * _ERRATIC_SPREAD, {3: 1.0, 1: -1.0})]
    if likely is not None:
        pairs.append((x[1] - likely, 2.0 * _MOTION_SPREAD, {1: 1.0}))
    for off, spread, signs in pairs:
        value += 0.5 * (off / spread) ** 2
        for index, sign in signs.items():
            slope[index] += sign * off / spread**2
    return float(value), slope
