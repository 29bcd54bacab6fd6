"""Distortion or biology? The statistics along z that tell them apart, for scalars: one parameter of every section.

Distortion d_z (cutting, mounting, imaging) is independent from section to section. Tissue itself moves by m_z from
section z to z-1, and that motion is strongly correlated along z: an AR(1) sequence about a mean (tilted tissue) of
which nothing is known. Outlines also change at random, and registration errs where they do; that erratic motion s_z is
independent from section to section but, unlike distortion, not taken back by the next one, and farther pairs repeat it.
What is observed between fixed z and moving z-k is

    T_kz = d_{z-k} - d_z + (m_z + s_z) + … + (m_{z-k+1} + s_{z-k+1}) + e_kz,      var e_kz = k² σ_e² / w_kz.

All is Gaussian, so the variances are those that make the observations most likely, and d is the posterior mean. Both
come from one banded Cholesky factor of the posterior precision of (d_z, m_z, s_z), so the cost is O(Z). Missing
observations have w = 0 and simply do not occur.

Source: empirical Bayes; the precision form of AR(1) is in Rue & Held, Gaussian Markov Random Fields, 2005, §1.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.optimize import minimize
from scipy.sparse import csr_array

from ssem_dask.composition.selected_inverse import inverse_band
from ssem_dask.types import AnyArray, Float64Array

CORRELATION_RANGE = (0.2, 0.99)
"""Lag-1 autocorrelation of natural motion; .66 to .96 has been seen in tissue at every scale."""
CORRELATION_EXPECTED = 0.8
CERTAIN_EVIDENCE = 1.25
"""Natural logs per section at which sections are as good as known to be displaced in every way: shifted, turned,
stretched and sheared. Real serial sections have 1.5 and more, those that were only shifted at most 1.1."""
_DOUBT = 0.05
"""Natural logs about `CERTAIN_EVIDENCE` within which that is believed in part."""
LEAST_DISTORTION = 3.0
"""Distortion of sections that certainly are displaced, in units of the natural motion (rms): of affine parameters."""
LEAST_LONG, LEAST_SHORT = 2.5, 0.5
"""The same of elastic waves. A section bends like a sheet, hardly at short wavelengths; there tissue moves by more."""
ERRATIC_KEPT = 0.5
"""What is believed of the fitted erratic motion (rms) in such sections: distortion easily passes for it."""
UNKNOWNS = 3
"""For each section: distortion, natural motion, erratic motion."""
_UNKNOWN_TILT = 100.0
"""In rms observations: as good as unknown. It must not hang on the variances, or each column of a fit would count
against the largest of them."""
_MOTION_SPREAD = 0.5
"""Standard deviation of log σ_m about what is expected of it."""
_ERRATIC_EXPECTED = 0.5
"""σ_s in units of σ_m; .1 to 1 was seen in tissue."""
_ERRATIC_SPREAD = 0.5
"""Standard deviation of log σ_s about that."""
_NONE = -14.0
"""Log of a variance, relative to that of the observations, that is as good as 0."""


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
    erratic: float = 0.0
    """σ_s², of the erratic motion from one section to the next."""
    tilt: float = 0.0
    """σ of the mean motion, unit of the observations."""
    least: float = LEAST_DISTORTION
    """Least distortion of sections that certainly are displaced, in units of the natural motion (rms)."""


class SequenceModel:
    """The observations of one volume: which pairs there are, and how much each is worth."""

    def __init__(self, weights: Float64Array, *, breaks: Sequence[int] = (), jump: float = 0.0) -> None:
        """Set up.

        Args:
            weights: `(K, Z)`, 0 where nothing was observed.
            breaks: sections z before which the course of natural motion breaks off: what lies between z-1 and z may be
                anything, and s_z holds it.
            jump: standard deviation of what that may be, unit of the observations; far more than anything else.
        """
        steps, count = weights.shape
        self.breaks = tuple(breaks)
        self.jump = jump
        there = np.arange(count)[None, :] >= np.arange(1, steps + 1)[:, None]
        k, self._z = np.nonzero(there & (weights > 0))
        self._k = k
        self._shape = weights.shape
        self.count = count
        self.precision: Float64Array = weights[k, self._z] / (k + 1.0) ** 2
        """Of each observation, in units of 1/σ_e²."""
        self._design = self._rows()
        self.bands = UNKNOWNS * min(steps + 1, count) - 1
        gram = csr_array(self._design.T @ (self._design * self.precision[:, None]))
        size = UNKNOWNS * count
        self.gram = np.zeros((self.bands + 1, size))
        """Hᵀ W H for unit variances, lower banded, without the mean motion."""
        for offset in range(self.bands + 1):
            self.gram[offset, : size - offset] = gram.diagonal(-offset)[: size - offset]
        border = gram[[-1]].toarray()[0]
        self.border: Float64Array = border[:-1]
        """The same for the mean motion."""
        self.corner = float(border[-1])

    @property
    def design(self) -> "csr_array":
        """H `(n, 3Z + 1)`: unknowns d_0, m_0, s_0, d_1, …, and the mean motion."""
        return self._design

    def _rows(self) -> "csr_array":
        """H `(n, 3Z + 1)`: unknowns d_0, m_0, s_0, d_1, m_1, s_1, … and the mean motion."""
        step = self._k + 1
        row = np.arange(len(step))
        motion_row = np.repeat(row, step)
        back = np.arange(len(motion_row)) - np.repeat(np.cumsum(step) - step, step)
        last = UNKNOWNS * self.count
        moved = UNKNOWNS * (self._z[motion_row] - back)
        rows = np.concatenate([row, row, row, motion_row, motion_row])
        columns = np.concatenate(
            [UNKNOWNS * (self._z - step), UNKNOWNS * self._z, np.full(len(row), last), moved + 1, moved + 2]
        )
        entries = np.concatenate([np.ones(len(row)), -np.ones(len(row)), step, np.ones(2 * len(motion_row))])
        return csr_array((entries.astype(np.float64), (rows, columns)), shape=(len(row), last + 1))

    def apply(self, unknowns: AnyArray) -> AnyArray:
        """H: what unknowns `(3Z + 1, P)` make of the observations `(n, P)`; the last unknown is the mean motion."""
        return np.asarray(self._design @ unknowns)

    def adjoint(self, values: AnyArray) -> AnyArray:
        """Hᵀ: `(n, P)` to `(3Z + 1, P)`."""
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
        """Posterior means.

        Args:
            observed: T `(K, Z, P)`, P parameters with the same variances.
            variances: of the model.
        """
        values = self.pick(observed)
        unknowns = self.factor(variances).solve(self.adjoint(self.precision[:, None] * values / variances.noise))
        residual = values - self.apply(unknowns)
        return Posterior(
            distortion=unknowns[0:-1:UNKNOWNS],
            motion=unknowns[1:-1:UNKNOWNS] + unknowns[-1],
            erratic=unknowns[2:-1:UNKNOWNS],
            residual=self.spread(residual),
        )

    def fit(
        self,
        observed: Float64Array,
        *,
        start: Variances | None,
        expected: float | None,
        tilt: float | None,
        distorted: bool,
    ) -> "Fit":
        """The variances that make T `(K, Z, P)` most likely, with weak expectations of r, σ_s and, if given, of σ_m.

        A dozen values hardly tell white distortion that happens to run slowly from motion, nor either from erratic
        motion; then the expectations decide. With hundreds they no longer count.

        Args:
            observed: parameters with the same variances.
            start: a first guess; None tries several.
            expected: σ_m, unit of the observations; None expects nothing.
            tilt: standard deviation of the mean motion, unit of the observations; None: as good as unknown.
            distorted: False holds σ_D at 0.
        """
        values = self.pick(observed)
        columns = values.shape[1]
        total = max(float(np.square(values).mean()) if values.size else 0.0, 1e-12)
        if columns > len(values):  # the likelihood knows the columns by their products alone
            left, sizes, _ = np.linalg.svd(values, full_matrices=False)
            values = left * sizes
        low, high = CORRELATION_RANGE
        usual = float(np.log((CORRELATION_EXPECTED - low) / (high - CORRELATION_EXPECTED)))
        likely = None if expected is None else float(np.log(expected**2 / total))

        def variances(x: Float64Array) -> Variances:
            d, m, e, s = (float(v) for v in total * np.exp(x[:4]))
            r = float(low + (high - low) / (1 + np.exp(-x[4])))
            return Variances(d, m, r, e, s, tilt=_UNKNOWN_TILT * total**0.5 if tilt is None else tilt)

        def cost(x: Float64Array) -> float:
            prior = 0.5 * (x[4] - usual) ** 2 + 1e-2 * float((x[1:3] ** 2).sum())
            prior += 0.5 * ((x[3] - x[1] - 2.0 * np.log(_ERRATIC_EXPECTED)) / (2.0 * _ERRATIC_SPREAD)) ** 2
            if likely is not None:
                prior += 0.5 * ((x[1] - likely) / (2.0 * _MOTION_SPREAD)) ** 2
            return float(prior - self._log_likelihood(values, variances(x), columns=columns))

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
                method="L-BFGS-B",
                bounds=[(_NONE, 8.0 if distorted else _NONE)] + [(_NONE, 8.0)] * 3 + [(-6.0, 6.0)],
                options={"ftol": 1e-10, "gtol": 1e-4, "eps": 1e-4, "maxiter": 60},
            )
            for first in starts
        ]
        best = min(found, key=lambda result: float(result.fun))
        return Fit(variances(np.asarray(best.x)), score=-float(best.fun))

    def evidence(self, observed: Float64Array, *, fitted: "Fit", expected: float | None, tilt: float | None) -> float:
        """By how much, in natural logs, T is more likely with distortion than without any.

        Args:
            observed: as they were given to `fit`.
            fitted: what it found.
            expected: as for `fit`.
            tilt: as for `fit`.
        """
        found = fitted.variances
        # What was distortion has to become motion, and a fit that starts without it may not get there by itself.
        starts = [found, replace(found, erratic=found.erratic + 2.0 * found.distortion)]
        calm = [self.fit(observed, start=s, expected=expected, tilt=tilt, distorted=False).score for s in starts]
        return max(fitted.score - max(calm), 0.0)

    def _log_likelihood(self, values: Float64Array, variances: Variances, *, columns: int) -> float:
        """Of observations `(n, P)`, or of any with the same products among the n that stand for `columns`."""
        factor = self.factor(variances)
        weighted = self.precision[:, None] * values / variances.noise
        residual = values - self.apply(factor.solve(self.adjoint(weighted)))
        # log p(T) = log p(T|x) + log p(x) - log p(x|T) at the posterior mean x.
        misfit = float((weighted * residual).sum())
        return -0.5 * float(columns * (factor.logdet + len(values) * np.log(variances.noise)) + misfit)


@dataclass(frozen=True, slots=True)
class Fit:
    """Variances that were fitted."""

    variances: Variances
    score: float
    """Their log likelihood, up to a constant, less what speaks against them beforehand."""


def certainty_of(evidence: float, *, pairs: int) -> float:
    """How certain it is, 0 to 1, that sections were displaced one by one in every way, as cut and mounted ones are.

    Args:
        evidence: as of `SequenceModel.evidence`, summed over the affine parameters.
        pairs: of neighbours, which it rests on.
    """
    excess = (evidence / max(pairs, 1) - CERTAIN_EVIDENCE) / _DOUBT
    return float(1.0 / (1.0 + np.exp(-np.clip(excess, -60.0, 60.0))))


def believed(fitted: Variances, *, certainty: float) -> Variances:
    """What a solve shall expect.

    What was fitted; where nothing was displaced, that is next to no distortion, and sections stay as they are. In
    sections that certainly were cut and mounted one by one, distortion is expected to be no less than `least` times
    the motion, whatever was fitted, and less to be erratic: of motion lost and distortion left
    in, the latter is worse, and at the wavelengths where tissue moves most the two are hard to tell apart.

    Args:
        fitted: as found.
        certainty: as of `certainty_of`.
    """
    least = certainty * fitted.least**2 * fitted.motion
    kept = 1.0 - certainty * (1.0 - ERRATIC_KEPT**2)
    return replace(fitted, distortion=max(fitted.distortion, least), erratic=fitted.erratic * kept)


class Factor:
    """Cholesky factor of the posterior precision: prior of (d, m, mean motion) and observations."""

    def __init__(self, model: SequenceModel, variances: Variances) -> None:
        """Factor it, unknowns scaled to unit prior variance so that a vanishing one does no harm."""
        count, r = model.count, variances.correlation
        size = UNKNOWNS * count
        scale = np.empty(size + 1)
        scale[0:-1:UNKNOWNS] = variances.distortion**0.5
        scale[1:-1:UNKNOWNS] = variances.motion**0.5
        scale[2:-1:UNKNOWNS] = variances.erratic**0.5
        for z in model.breaks:
            scale[UNKNOWNS * z + 2] = model.jump
        scale[-1] = variances.tilt
        precision = model.gram / variances.noise
        for offset in range(model.bands + 1):
            precision[offset, : size - offset] *= scale[offset:-1] * scale[: size - offset]
        precision[0, 0::UNKNOWNS] += 1.0
        precision[0, 2::UNKNOWNS] += 1.0
        precision[0, 1::UNKNOWNS] += 1.0
        if count > 1:
            precision[0, 1 + UNKNOWNS :: UNKNOWNS] += r**2 / (1 - r**2)
            precision[0, 1 : size - UNKNOWNS : UNKNOWNS] += r**2 / (1 - r**2)
            precision[UNKNOWNS, 1 : size - UNKNOWNS : UNKNOWNS] -= r / (1 - r**2)
        border = scale[:-1] * model.border * scale[-1] / variances.noise
        self._scale = scale
        self._factor = cholesky_banded(precision, lower=True, check_finite=False)
        self._border = border
        self._eliminated = cho_solve_banded((self._factor, True), border, check_finite=False)
        self._corner = 1.0 + model.corner * scale[-1] ** 2 / variances.noise - border @ self._eliminated
        self.logdet = float(2 * np.log(self._factor[0]).sum() + np.log(self._corner) + (count - 1) * np.log(1 - r**2))
        """log det of posterior over prior precision, unscaled."""

    def solve(self, right: AnyArray) -> AnyArray:
        """Posterior precision's inverse times `(3Z + 1, P)`."""
        scaled = self._scale[:, None] * right
        solved = cho_solve_banded((self._factor, True), scaled[:-1], check_finite=False)
        tilt = (scaled[-1] - self._border @ solved) / self._corner
        unknowns = solved - self._eliminated[:, None] * tilt
        return np.concatenate([unknowns, tilt[None]]) * self._scale[:, None]

    def erratic_variance(self) -> tuple[Float64Array, Float64Array]:
        """Posterior and prior variance of s_z, each `(Z,)`."""
        scale = self._scale[2:-1:UNKNOWNS] ** 2
        own = inverse_band(self._factor, width=0)[0, 2::UNKNOWNS]
        return (own + self._eliminated[2::UNKNOWNS] ** 2 / self._corner) * scale, scale

    def distortion_covariance(self, *, reach: int) -> Float64Array:
        """Posterior covariance of d_z and d_{z+k}, `(reach + 1, Z)`, k = 0 … reach; 0 where z + k does not exist."""
        band = inverse_band(self._factor, width=UNKNOWNS * reach)[::UNKNOWNS, ::UNKNOWNS]
        tilted = self._eliminated[::UNKNOWNS]
        scale = self._scale[0:-1:UNKNOWNS]
        count = len(scale)
        out = np.zeros_like(band)
        for k in range(min(reach, count - 1) + 1):
            first, second = slice(0, count - k), slice(k, count)
            shared = tilted[first] * tilted[second] / self._corner
            out[k, first] = (band[k, first] + shared) * scale[first] * scale[second]
        return out


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior means."""

    distortion: Float64Array
    """d `(Z, P)`."""
    motion: Float64Array
    """m `(Z, P)`: natural motion from z to z-1, its mean included."""
    erratic: Float64Array
    """s `(Z, P)`: erratic motion from z to z-1; at a break all of the jump."""
    residual: Float64Array
    """`(K, Z, P)`: what neither explains; NaN where nothing was observed."""
