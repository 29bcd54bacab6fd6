"""Distortion or biology? The statistics along z that tell them apart, for scalars: one parameter of every section.

Distortion d_z (cutting, mounting, imaging) is independent from section to section. Tissue itself moves by m_z from
section z to z-1, and that motion is strongly correlated along z: an AR(1) sequence about a mean (tilted tissue) of
which nothing is known. What is observed between fixed z and moving z-k is

    T_kz = d_{z-k} - d_z + (m_z + … + m_{z-k+1}) + e_kz,      var e_kz = k² σ_e² / w_kz.

All is Gaussian, so the variances are those that make the observations most likely, and d is the posterior mean. Both
come from one banded Cholesky factor of the posterior precision of (d_z, m_z), so the cost is O(Z). Missing observations
have w = 0 and simply do not occur.

Source: empirical Bayes; the precision form of AR(1) is in Rue & Held, Gaussian Markov Random Fields, 2005, §1.1.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.optimize import minimize
from scipy.sparse import csr_array

from ssem_dask.types import AnyArray, Float64Array

CORRELATION_RANGE = (0.2, 0.99)
"""Lag-1 autocorrelation of natural motion; .66 to .96 has been seen in tissue at every scale."""
CORRELATION_EXPECTED = 0.8
_MOTION_SPREAD = 0.5
"""Standard deviation of log σ_m about what is expected of it."""


@dataclass(frozen=True, slots=True)
class Variances:
    """What was fitted; squares of the unit of the observations."""

    distortion: float
    """σ_D², of a section's distortion."""
    motion: float
    """σ_m², of the natural motion from one section to the next."""
    correlation: float
    """r, lag-1 autocorrelation of natural motion."""
    noise: float
    """σ_e², of an observation between neighbours."""
    tilt: float = 100.0
    """Standard deviation of the mean motion, in the largest of the others: 100 is as good as unknown; 0: none."""


class SequenceModel:
    """The observations of one volume: which pairs there are, and how much each is worth."""

    def __init__(self, weights: Float64Array) -> None:
        """Set up for weights `(K, Z)`, 0 where nothing was observed."""
        steps, count = weights.shape
        there = np.arange(count)[None, :] >= np.arange(1, steps + 1)[:, None]
        k, self._z = np.nonzero(there & (weights > 0))
        self._k = k
        self._shape = weights.shape
        self.count = count
        self.precision: Float64Array = weights[k, self._z] / (k + 1.0) ** 2
        """Of each observation, in units of 1/σ_e²."""
        self._design = self._rows()
        self.bands = 2 * steps + 1
        gram = csr_array(self._design.T @ (self._design * self.precision[:, None]))
        self.gram = np.zeros((self.bands + 1, 2 * count))
        """Hᵀ W H for unit variances, lower banded, without the mean motion."""
        for offset in range(min(self.bands + 1, 2 * count)):
            self.gram[offset, : 2 * count - offset] = gram.diagonal(-offset)[: 2 * count - offset]
        border = gram[[-1]].toarray()[0]
        self.border: Float64Array = border[:-1]
        """The same for the mean motion."""
        self.corner = float(border[-1])

    def _rows(self) -> "csr_array":
        """H `(n, 2Z + 1)`: unknowns d_0, m_0, d_1, m_1, … and the mean motion."""
        step = self._k + 1
        row = np.arange(len(step))
        motion_row = np.repeat(row, step)
        back = np.arange(len(motion_row)) - np.repeat(np.cumsum(step) - step, step)
        rows = np.concatenate([row, row, row, motion_row])
        columns = np.concatenate(
            [2 * (self._z - step), 2 * self._z, np.full(len(row), 2 * self.count), 2 * (self._z[motion_row] - back) + 1]
        )
        entries = np.concatenate([np.ones(len(row)), -np.ones(len(row)), step, np.ones(len(motion_row))])
        return csr_array((entries.astype(np.float64), (rows, columns)), shape=(len(row), 2 * self.count + 1))

    def apply(self, unknowns: AnyArray) -> AnyArray:
        """H: what unknowns `(2Z + 1, P)` make of the observations `(n, P)`; the last unknown is the mean motion."""
        return np.asarray(self._design @ unknowns)

    def adjoint(self, values: AnyArray) -> AnyArray:
        """Hᵀ: `(n, P)` to `(2Z + 1, P)`."""
        return np.asarray(self._design.T @ values)

    def pick(self, observed: AnyArray) -> AnyArray:
        """The observations `(n, …)` out of `(K, Z, …)`."""
        return np.asarray(observed[self._k, self._z])

    def spread(self, values: AnyArray) -> AnyArray:
        """The observations `(n, …)` in their places `(K, Z, …)`; NaN where there is none."""
        out = np.full((*self._shape, *values.shape[1:]), np.nan, dtype=values.dtype)
        out[self._k, self._z] = values
        return out

    def factor(self, variances: Variances) -> "Factor":
        """Factor the posterior precision of the unknowns."""
        return Factor(self, variances)

    def solve(self, observed: Float64Array, variances: Variances) -> "Posterior":
        """Posterior means and the log likelihood.

        Args:
            observed: T `(K, Z, P)`, P parameters with the same variances.
            variances: of the model.
        """
        values = self.pick(observed)
        n, p = values.shape
        factor = self.factor(variances)
        unknowns = factor.solve(self.adjoint(self.precision[:, None] * values / variances.noise))
        residual = values - self.apply(unknowns)
        # log p(T) = log p(T|x) + log p(x) - log p(x|T) at the posterior mean x.
        misfit = (self.precision[:, None] * values * residual).sum() / variances.noise
        likelihood = -0.5 * (p * (factor.logdet + n * np.log(variances.noise)) + misfit)
        return Posterior(
            distortion=unknowns[0:-1:2],
            motion=unknowns[1:-1:2] + unknowns[-1],
            residual=self.spread(residual),
            log_likelihood=float(likelihood),
        )

    def fit(
        self, observed: Float64Array, *, start: Variances | None, expected: float | None, tilt: float | None = None
    ) -> Variances:
        """The variances that make T `(K, Z, P)` most likely, with a weak expectation of r and, if given, of σ_m.

        A dozen values hardly tell white distortion that happens to run slowly from motion; then the expectation
        decides. With hundreds it no longer counts.

        Args:
            observed: parameters with the same variances.
            start: a first guess; None tries several.
            expected: σ_m, unit of the observations; None expects nothing.
            tilt: standard deviation of the mean motion, unit of the observations; None: as good as unknown.
        """
        values = self.pick(observed)
        total = max(float(np.square(values).mean()) if values.size else 0.0, 1e-12)
        low, high = CORRELATION_RANGE
        usual = float(np.log((CORRELATION_EXPECTED - low) / (high - CORRELATION_EXPECTED)))
        likely = None if expected is None else float(np.log(expected**2 / total))

        def variances(x: Float64Array) -> Variances:
            d, m, e = total * np.exp(x[:3])
            r = float(low + (high - low) / (1 + np.exp(-x[3])))
            if tilt is None:
                return Variances(float(d), float(m), r, float(e))
            return Variances(float(d), float(m), r, float(e), tilt=tilt / float(max(d, m, e)) ** 0.5)

        def cost(x: Float64Array) -> float:
            prior = 0.5 * (x[3] - usual) ** 2 + 1e-2 * float((x[:3] ** 2).sum())
            if likely is not None:
                prior += 0.5 * ((x[1] - likely) / (2.0 * _MOTION_SPREAD)) ** 2
            return float(prior - self.solve(observed, variances(x)).log_likelihood)

        if start is None:
            starts = [[-1.0, -1.0, -3.0, usual], [-8.0, 0.0, -2.0, usual]]
        else:
            sizes = np.clip(np.log([v / total for v in (start.distortion, start.motion, start.noise)]), -14.0, 8.0)
            share = np.clip((start.correlation - low) / (high - low), 0.003, 0.997)
            starts = [[*sizes, float(np.log(share / (1 - share)))]]
        # Tight tolerances: results must not hang on the last digits of the observations.
        found = [
            minimize(
                cost,
                first,
                method="L-BFGS-B",
                bounds=[(-14.0, 8.0)] * 3 + [(-6.0, 6.0)],
                options={"ftol": 1e-10, "gtol": 1e-4, "eps": 1e-4, "maxiter": 60},
            )
            for first in starts
        ]
        return variances(np.asarray(min(found, key=lambda result: float(result.fun)).x))


class Factor:
    """Cholesky factor of the posterior precision: prior of (d, m, mean motion) and observations."""

    def __init__(self, model: SequenceModel, variances: Variances) -> None:
        """Factor it, unknowns scaled to unit prior variance so that a vanishing one does no harm."""
        count, r = model.count, variances.correlation
        scale = np.empty(2 * count + 1)
        scale[0:-1:2], scale[1:-1:2] = variances.distortion**0.5, variances.motion**0.5
        scale[-1] = variances.tilt * max(variances.distortion, variances.motion, variances.noise) ** 0.5
        precision = model.gram / variances.noise
        for offset in range(model.bands + 1):
            precision[offset, : 2 * count - offset] *= scale[offset:-1] * scale[: 2 * count - offset]
        precision[0, 0::2] += 1.0
        motion = np.full(count, (1 + r**2) / (1 - r**2))
        motion[[0, -1]] = 1 / (1 - r**2)
        precision[0, 1::2] += motion
        precision[2, 1:-2:2] -= r / (1 - r**2)
        border = scale[:-1] * model.border * scale[-1] / variances.noise
        self._scale = scale
        self._factor = cholesky_banded(precision, lower=True, check_finite=False)
        self._border = border
        self._eliminated = cho_solve_banded((self._factor, True), border, check_finite=False)
        self._corner = 1.0 + model.corner * scale[-1] ** 2 / variances.noise - border @ self._eliminated
        self.logdet = float(2 * np.log(self._factor[0]).sum() + np.log(self._corner) + (count - 1) * np.log(1 - r**2))
        """log det of posterior over prior precision, unscaled."""

    def solve(self, right: AnyArray) -> AnyArray:
        """Posterior precision's inverse times `(2Z + 1, P)`."""
        scaled = self._scale[:, None] * right
        solved = cho_solve_banded((self._factor, True), scaled[:-1], check_finite=False)
        tilt = (scaled[-1] - self._border @ solved) / self._corner
        unknowns = solved - self._eliminated[:, None] * tilt
        return np.concatenate([unknowns, tilt[None]]) * self._scale[:, None]


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior means."""

    distortion: Float64Array
    """d `(Z, P)`."""
    motion: Float64Array
    """m `(Z, P)`: natural motion from z to z-1, its mean included."""
    residual: Float64Array
    """`(K, Z, P)`: what neither explains; NaN where nothing was observed."""
    log_likelihood: float
