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

from ssem_dask.types import Float64Array

CORRELATION_RANGE = (0.2, 0.99)
"""Lag-1 autocorrelation of natural motion; .66 to .96 has been seen in tissue at every scale."""
CORRELATION_EXPECTED = 0.8
TILT_SCALE = 100.0
"""Standard deviation, in those of the observations, of the mean motion: as good as unknown."""


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


class SequenceModel:
    """The observations of one volume: which pairs there are, and how much each is worth."""

    def __init__(self, weights: Float64Array) -> None:
        """Set up for weights `(K, Z)`, 0 where nothing was observed."""
        steps, count = weights.shape
        reach = np.arange(count)[None, :] >= np.arange(1, steps + 1)[:, None]
        self.count = count
        self._k, self._z = np.nonzero(reach & (weights > 0))
        self._k = self._k + 1
        self._precision = weights[self._k - 1, self._z] / self._k.astype(np.float64) ** 2
        self._columns, self._entries = self._design()
        self._band = 2 * steps + 1
        self._gram = self._banded_gram()
        self._tilt_gram = self._adjoint(self._k * self._precision)
        self._tilt_square = float((self._precision * self._k**2).sum())

    @property
    def observations(self) -> int:
        """How many pairs count."""
        return len(self._k)

    def _design(self) -> tuple[Float64Array, Float64Array]:
        """Columns and entries of each observation's row, unknowns in the order d_0, m_0, d_1, m_1, …."""
        widest = 2 + int(self._k.max(initial=1))
        columns = np.zeros((len(self._k), widest), dtype=np.intp)
        entries = np.zeros((len(self._k), widest))
        columns[:, 0], entries[:, 0] = 2 * (self._z - self._k), 1.0
        columns[:, 1], entries[:, 1] = 2 * self._z, -1.0
        for j in range(widest - 2):
            there = j < self._k
            columns[there, 2 + j] = 2 * (self._z[there] - j) + 1
            entries[there, 2 + j] = 1.0
        return columns, entries

    def _banded_gram(self) -> Float64Array:
        """Hᵀ W H, lower banded, for unit variances."""
        gram = np.zeros((self._band + 1, 2 * self.count))
        for i in range(self._columns.shape[1]):
            for j in range(self._columns.shape[1]):
                row, column = self._columns[:, i], self._columns[:, j]
                product = self._precision * self._entries[:, i] * self._entries[:, j]
                lower = (row >= column) & (product != 0)
                np.add.at(gram, ((row - column)[lower], column[lower]), product[lower])
        return gram

    def _adjoint(self, values: Float64Array) -> Float64Array:
        """Hᵀ times values `(n, …)`; `(2Z, …)`."""
        out = np.zeros((2 * self.count, *values.shape[1:]))
        for i in range(self._columns.shape[1]):
            entry = self._entries[:, i].reshape(-1, *[1] * (values.ndim - 1))
            np.add.at(out, self._columns[:, i], entry * values)
        return out

    def _apply(self, unknowns: Float64Array) -> Float64Array:
        """H times unknowns `(2Z, P)`; `(n, P)`."""
        return np.asarray((unknowns[self._columns] * self._entries[:, :, None]).sum(axis=1))

    def solve(self, observed: Float64Array, variances: Variances) -> "Posterior":
        """Posterior means and the log likelihood.

        Args:
            observed: T `(K, Z, P)`, P parameters with the same variances.
            variances: of the model.
        """
        values = observed[self._k - 1, self._z]
        n, p = values.shape
        scale = np.empty(2 * self.count)
        scale[0::2], scale[1::2] = variances.distortion**0.5, variances.motion**0.5
        spread = max(float(values.std()) if n else 0.0, variances.noise**0.5)
        tilt_scale = TILT_SCALE * spread
        precision = self._gram.copy()
        for offset in range(self._band + 1):
            precision[offset, : 2 * self.count - offset] *= scale[offset:] * scale[: 2 * self.count - offset]
        precision /= variances.noise
        r = variances.correlation
        precision[0, 0::2] += 1.0
        motion = np.full(self.count, (1 + r**2) / (1 - r**2))
        motion[[0, -1]] = 1 / (1 - r**2)
        precision[0, 1::2] += motion
        precision[2, 1:-2:2] -= r / (1 - r**2)
        factor = cholesky_banded(precision, lower=True, check_finite=False)
        weighted = self._precision[:, None] * values
        right = scale[:, None] * self._adjoint(weighted) / variances.noise
        border = scale * self._tilt_gram * tilt_scale / variances.noise
        solved = cho_solve_banded((factor, True), np.column_stack([right, border]), check_finite=False)
        corner = 1.0 + self._tilt_square * tilt_scale**2 / variances.noise - border @ solved[:, -1]
        tilt_right = (self._k @ weighted) * tilt_scale / variances.noise - border @ solved[:, :-1]
        tilt = tilt_right / corner
        unknowns = solved[:, :-1] - solved[:, -1:] * tilt
        tilt_value = tilt * tilt_scale
        scaled = scale[:, None] * unknowns
        residual = values - self._apply(scaled) - self._k[:, None] * tilt_value
        # log p(T) = log p(T|x) + log p(x) - log p(x|T) at the posterior mean x.
        misfit = (self._precision[:, None] * values * residual).sum() / variances.noise
        logdet = 2 * np.log(factor[0]).sum() + np.log(corner) + (self.count - 1) * np.log(1 - r**2)
        likelihood = -0.5 * (p * (logdet + n * np.log(variances.noise)) + misfit)
        left = np.full(observed.shape, np.nan)
        left[self._k - 1, self._z] = residual
        return Posterior(
            distortion=scaled[0::2], motion=scaled[1::2] + tilt_value, residual=left, log_likelihood=float(likelihood)
        )

    def fit(self, observed: Float64Array) -> Variances:
        """The variances that make T `(K, Z, P)` most likely (with a weak expectation of r)."""
        values = observed[self._k - 1, self._z]
        total = max(float(np.median(np.abs(values)) ** 2) * 2.2, 1e-12)
        low, high = CORRELATION_RANGE

        def variances(x: Float64Array) -> Variances:
            d, m, e = total * np.exp(np.clip(x[:3], -16.0, 10.0))
            return Variances(float(d), float(m), float(low + (high - low) / (1 + np.exp(-x[3]))), float(e))

        expected = np.log((CORRELATION_EXPECTED - low) / (high - CORRELATION_EXPECTED))

        def cost(x: Float64Array) -> float:
            prior = 0.5 * (x[3] - expected) ** 2 + 1e-3 * float((x[:3] ** 2).sum())
            return -self.solve(observed, variances(x)).log_likelihood + prior

        starts = ([-1.0, -1.0, -3.0, expected], [-8.0, 0.0, -2.0, expected], [-1.0, -6.0, -3.0, expected])
        best = min(
            (minimize(cost, start, method="Nelder-Mead", options={"xatol": 0.02, "fatol": 0.01}) for start in starts),
            key=lambda found: float(found.fun),
        )
        return variances(np.asarray(best.x))


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
