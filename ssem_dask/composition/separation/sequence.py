"""Distortion or biology? The statistics along z that tell them apart, for scalars: one parameter of every section.

Distortion d_z (cutting, mounting, imaging) is independent from section to section. Tissue itself moves by m_z from
section z to z-1, and that motion is strongly correlated along z: an AR(1) sequence about a mean (tilted tissue) of
which nothing is known. Outlines also change at random, and registration errs where they do; that erratic motion s_z is
independent from section to section but, unlike distortion, not taken back by the next one, and farther pairs repeat it.
What is observed between fixed z and moving z-k is

    T_kz = d_{z-k} - d_z + (m_z + s_z) + … + (m_{z-k+1} + s_{z-k+1}) + e_kz,      var e_kz = k² σ_e² / w_kz.

All is Gaussian, so the variances are those that make the observations most likely (`likelihood`), and d is the
posterior mean. Both come from one banded Cholesky factor of the posterior precision of (d_z, m_z, s_z), so the cost is
O(Z). Missing observations have w = 0 and simply do not occur.

Source: empirical Bayes; the precision form of AR(1) is in Rue & Held, Gaussian Markov Random Fields, 2005, §1.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ssem_dask.composition.separation.banded import BandedCholesky
from ssem_dask.types import AnyArray, Float64Array

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
"""What is believed of the fitted erratic motion (rms) where there is much distortion, which easily passes for it."""
_MUCH = 4.0
"""Distortion of half the motion (rms) is enough for half of that doubt (docs/decisions/0025)."""
UNKNOWNS = 3
"""For each section: distortion, natural motion, erratic motion."""


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
        self.gram = np.zeros((self.bands + 1, size), order="F")  # as LAPACK takes it
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

    @property
    def places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(k - 1, z) of each observation, `(n,)` each."""
        return self._k, self._z

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


def certainty_of(evidence: float, *, pairs: int) -> float:
    """How certain it is, 0 to 1, that sections were displaced one by one in every way, as cut and mounted ones are.

    Args:
        evidence: as of `evidence_of_distortion`, summed over the affine parameters.
        pairs: of neighbours, which it rests on.
    """
    excess = (evidence / max(pairs, 1) - CERTAIN_EVIDENCE) / _DOUBT
    return float(1.0 / (1.0 + np.exp(-np.clip(excess, -60.0, 60.0))))


def believed(fitted: Variances, *, certainty: float) -> Variances:
    """What a solve shall expect.

    What was fitted; where nothing was displaced, that is next to no distortion, and sections stay as they are. The more
    distortion there is beside the motion, the more of what passes for erratic motion is distortion as well. In
    sections that certainly were cut and mounted one by one, distortion is expected to be no less than `least` times
    the motion, whatever was fitted: of motion lost and distortion left in, the latter is worse, and at the wavelengths
    where tissue moves most the two are hard to tell apart.

    Args:
        fitted: as found.
        certainty: as of `certainty_of`.
    """
    least = certainty * fitted.least**2 * fitted.motion
    there = _MUCH * fitted.distortion
    doubted = max(certainty, there / (there + fitted.motion) if there > 0 else 0.0)
    kept = 1.0 - doubted * (1.0 - ERRATIC_KEPT**2)
    return replace(fitted, distortion=max(fitted.distortion, least), erratic=fitted.erratic * kept)


@dataclass(frozen=True, slots=True)
class Derivatives:
    """By the logs of the variances, and by r."""

    distortion: float
    motion: float
    noise: float
    erratic: float
    correlation: float


class _MotionPrior:
    """Precision of an AR(1) sequence of variance 1: tridiagonal."""

    def __init__(self, count: int, r: float) -> None:
        lost = 1.0 - r**2
        self._sides = np.full(count, 2.0)
        """How many neighbours each has."""
        self._sides[[0, -1]] = 1.0
        self._sides *= count > 1
        self._slopes = 2.0 * r / lost**2, -(1.0 + r**2) / lost**2
        self.diagonal: Float64Array = 1.0 + self._sides * r**2 / lost
        self.below = -r / lost
        self.logdet = -(count - 1) * float(np.log(lost))
        self.logdet_derivative = (count - 1) * 2.0 * r / lost

    def expected(self, own: Float64Array, beside: Float64Array) -> float:
        """The trace with a covariance of which variances and those of neighbours are given."""
        return float(self.diagonal @ own + 2.0 * self.below * beside.sum())

    def expected_derivative(self, own: Float64Array, beside: Float64Array) -> float:
        """Its derivative by r, the covariance held."""
        diagonal, below = self._slopes
        return float(diagonal * (self._sides @ own) + 2.0 * below * beside.sum())


class Factor:
    """Cholesky factor of the posterior precision: prior of (d, m, mean motion) and observations."""

    def __init__(self, model: SequenceModel, variances: Variances) -> None:
        """Factor it, unknowns scaled to unit prior variance so that a vanishing one does no harm."""
        count = model.count
        size = UNKNOWNS * count
        scale = np.zeros(size + 1 + model.bands)
        scale[0:size:UNKNOWNS] = variances.distortion**0.5
        scale[1:size:UNKNOWNS] = variances.motion**0.5
        scale[2:size:UNKNOWNS] = variances.erratic**0.5
        for z in model.breaks:
            scale[UNKNOWNS * z + 2] = model.jump
        self._prior = _MotionPrior(count, variances.correlation)
        # What each entry's row is scaled by; the zeros that follow the last row are those of the band.
        rows = as_strided(scale, (size, model.bands + 1), (scale.itemsize, scale.itemsize), writeable=False).T
        precision = model.gram * (scale[:size] / variances.noise)
        precision *= rows
        precision[0] += 1.0
        precision[0, 1::UNKNOWNS] += self._prior.diagonal - 1.0
        if count > 1:
            precision[UNKNOWNS, 1 : size - UNKNOWNS : UNKNOWNS] += self._prior.below
        scale = scale[: size + 1]
        scale[-1] = variances.tilt
        border = scale[:-1] * model.border * (scale[-1] / variances.noise)
        self.scale: Float64Array = scale
        """Prior standard deviations of the unknowns `(3Z + 1,)`."""
        self._factor = BandedCholesky(precision)
        self._border = border
        self._eliminated = self._factor.solve(border)
        self._corner = 1.0 + model.corner * scale[-1] ** 2 / variances.noise - border @ self._eliminated
        self.logdet = float(self._factor.logdet + np.log(self._corner) - self._prior.logdet)
        """log det of posterior over prior precision, unscaled."""
        self._free = np.ones(count, dtype=np.bool_)
        """Sections whose erratic motion has the variance σ_s²."""
        self._free[list(model.breaks)] = False

    def solve(self, right: AnyArray) -> AnyArray:
        """Posterior precision's inverse times `(3Z + 1, P)`."""
        return self.solve_scaled(self.scale[:, None] * right) * self.scale[:, None]

    def solve_scaled(self, right: Float64Array) -> Float64Array:
        """`solve` for unknowns in units of their prior standard deviations, `right` times these."""
        unknowns = np.empty_like(right)
        unknowns[:-1] = self._factor.solve(right[:-1])
        unknowns[-1] = (right[-1] - self._border @ unknowns[:-1]) / self._corner
        unknowns[:-1] -= self._eliminated[:, None] * unknowns[-1]
        return unknowns

    def logdet_derivatives(self) -> "Derivatives":
        """Of `logdet`, from the posterior covariance near its diagonal."""
        band = self._factor.inverse_band(width=UNKNOWNS)
        own = band[0] + self._eliminated**2 / self._corner
        d, m, s = (own[i::UNKNOWNS] for i in range(UNKNOWNS))
        moved = self._eliminated[1::UNKNOWNS]
        beside = band[UNKNOWNS, 1::UNKNOWNS][:-1] + moved[:-1] * moved[1:] / self._corner
        motion = self._prior.expected(m, beside)
        known = float(d.sum() + s.sum()) + motion + 1.0 / float(self._corner)
        return Derivatives(
            distortion=len(d) - float(d.sum()),
            motion=len(m) - motion,
            noise=known - (len(own) + 1),
            erratic=float((1.0 - s)[self._free].sum()),
            correlation=self._prior.expected_derivative(m, beside) - self._prior.logdet_derivative,
        )

    def prior_derivatives(self, unknowns: Float64Array) -> "Derivatives":
        """Of xᵀ Q x, Q the prior precision, with x `(3Z + 1, P)` held, as `solve_scaled` gives it.

        Of noise: -xᵀ Q x itself.
        """
        squares = np.vecdot(unknowns, unknowns)
        d, m, s = (squares[i:-1:UNKNOWNS] for i in range(UNKNOWNS))
        moved = unknowns[1:-1:UNKNOWNS]
        beside = np.vecdot(moved[:-1], moved[1:])
        motion = self._prior.expected(m, beside)
        return Derivatives(
            distortion=-float(d.sum()),
            motion=-motion,
            noise=-(float(d.sum() + s.sum() + squares[-1]) + motion),
            erratic=-float(s[self._free].sum()),
            correlation=self._prior.expected_derivative(m, beside),
        )

    def erratic_variance(self) -> tuple[Float64Array, Float64Array]:
        """Posterior and prior variance of s_z, each `(Z,)`."""
        scale = self.scale[2:-1:UNKNOWNS] ** 2
        own = self._factor.inverse_band(width=0)[0, 2::UNKNOWNS]
        return (own + self._eliminated[2::UNKNOWNS] ** 2 / self._corner) * scale, scale

    def distortion_covariance(self, *, reach: int) -> Float64Array:
        """Posterior covariance of d_z and d_{z+k}, `(reach + 1, Z)`, k = 0 … reach; 0 where z + k does not exist."""
        band = self._factor.inverse_band(width=UNKNOWNS * reach)[::UNKNOWNS, ::UNKNOWNS]
        tilted = self._eliminated[::UNKNOWNS]
        scale = self.scale[0:-1:UNKNOWNS]
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
