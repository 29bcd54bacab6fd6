"""Distortion or biology? The statistics along z that separate them, for scalars: one parameter of every section.

Distortion d_z (cutting, mounting, imaging) is independent from section to section. Tissue itself moves by m_z from
section z to z-1. That natural motion is strongly correlated along z: an AR(1) sequence about an unknown mean (tilted
tissue). Outlines also change at random, and registration errs where they do. This erratic motion s_z is independent
from section to section as well; but the next section does not take it back, as it does distortion, and farther pairs
repeat it. The observation between fixed z and moving z-k is

    T_kz = d_{z-k} - d_z + (m_z + s_z) + … + (m_{z-k+1} + s_{z-k+1}) + e_kz,      var e_kz = k² σ_e² / w_kz.

All is Gaussian, so the variances are those of maximum likelihood (`likelihood`), and d is the posterior mean. Both come
from one banded Cholesky factor of the posterior precision of (d_z, m_z, s_z), so the cost is O(Z). Missing observations
have w = 0 and are left out.

Two numbers say whether there is distortion at all. The *evidence* is the log ratio of the maximised posteriors of the
model with distortion and the one without, an approximation of the log Bayes factor. The *certainty* is a calibrated
score between 0 and 1, read as P(displaced): the probability that the sections were displaced one by one. It is a
logistic function of the evidence per pair, calibrated on volumes with known deformations (docs/decisions/0008, 0009).

Source: empirical Bayes; the precision form of AR(1) is in Rue & Held, Gaussian Markov Random Fields, 2005, §1.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import as_strided
from scipy.sparse import csr_array

from ssem_dask.composition.separation.banded import BandedCholesky
from ssem_dask.types import AnyArray, Float64Array, IndexArray

# Both values were calibrated on 155 stacks of FIB-SEM and serial-section images (docs/decisions/0009).
DISPLACED_EVIDENCE = 1.25
"""Evidence (nats) per pair of neighbours at which P(displaced) is 1/2. Sections that are displaced in every way, by
shifts, rotations, stretches and shears, have 1.5 and more in real volumes; those that were only shifted at most 1.1."""
_EVIDENCE_WIDTH = 0.05
"""Nats per pair about `DISPLACED_EVIDENCE` over which P(displaced) rises: the scale of a logistic function."""
# Without least values the fit takes distortion of cut sections for motion: of the VNC's, 2.5 px instead of 1.5 remained
# (docs/decisions/0009). At short wavelengths distortion really is less than the motion (docs/decisions/0017).
MIN_DISTORTION = 3.0
"""Least expected distortion (rms) of displaced sections, in units of natural motion: for affine parameters."""
MIN_DISTORTION_LOW_FREQUENCY, MIN_DISTORTION_HIGH_FREQUENCY = 2.5, 0.5
"""Least expected distortion (rms) of displaced sections, in units of natural motion: for elastic coefficients. A
section bends like a sheet, hardly at short wavelengths; there tissue moves by more."""
ERRATIC_KEPT = 0.5
"""Share of the fitted erratic motion (rms) that is kept if there is much distortion, because distortion is easily
mistaken for erratic motion (docs/decisions/0008, 0025)."""
_DISTORTION_FACTOR = 4.0
"""Distortion of half the motion (rms) is enough to discount half of the erratic motion (docs/decisions/0025)."""
UNKNOWNS_PER_SECTION = 3
"""Unknowns per section: distortion, natural motion, erratic motion."""


@dataclass(frozen=True, slots=True)
class Variances:
    """Variances of the model; squares of the unit of the observations unless stated otherwise."""

    distortion: float
    """σ_D², variance of a section's distortion."""
    motion: float
    """σ_m², variance of the natural motion from one section to the next."""
    correlation: float
    """r, lag-1 autocorrelation of natural motion."""
    noise: float
    """σ_e², noise variance of an observation between neighbours."""
    erratic: float = 0.0
    """σ_s², variance of the erratic motion from one section to the next."""
    tilt: float = 0.0
    """Prior standard deviation of the mean motion, unit of the observations."""
    min_distortion: float = MIN_DISTORTION
    """Least expected distortion (rms) of displaced sections, in units of the natural motion."""


class SequenceModel:
    """The linear model of one volume's observations: which pairs there are, and the weight of each."""

    def __init__(self, weights: Float[Float64Array, "K Z"], *, jumps: Sequence[int] = (), jump_sd: float = 0.0) -> None:
        """Build the design matrix and its weighted Gram matrix.

        Args:
            weights: of the pairs, 0 if nothing was observed.
            jumps: sections z before which natural motion is interrupted. The motion from z to z-1 has no prior there;
                the model assigns the whole jump to s_z.
            jump_sd: standard deviation of a jump, unit of the observations; far more than anything else.
        """
        steps, count = weights.shape
        self.jumps = tuple(jumps)
        self.jump_sd = jump_sd
        # The moving section z-k must exist.
        exists = np.arange(count)[None, :] >= np.arange(1, steps + 1)[:, None]
        k, self._z = np.nonzero(exists & (weights > 0))
        self._k = k
        self._shape = weights.shape
        self.count = count
        # Index k is distance k + 1. A pair's variance grows with its square: var e = k² σ_e² / w, as above.
        self.precision: Float64Array = weights[k, self._z] / (k + 1.0) ** 2
        """Precision of each observation, in units of 1/σ_e²."""
        self._design = self._build_design()
        # A pair couples unknowns that are at most K sections apart: this is the width of the band.
        self.bands = UNKNOWNS_PER_SECTION * min(steps + 1, count) - 1
        gram = csr_array(self._design.T @ (self._design * self.precision[:, None]))
        size = UNKNOWNS_PER_SECTION * count
        self.gram = np.zeros((self.bands + 1, size), order="F")  # Fortran's order, as LAPACK takes it
        """Hᵀ W H for unit variances, lower banded, without the mean motion."""
        for offset in range(self.bands + 1):
            self.gram[offset, : size - offset] = gram.diagonal(-offset)[: size - offset]
        # The mean motion touches every observation, so its row would be dense: it is stored separately, as
        # the border of a bordered band matrix.
        border = gram[[-1]].toarray()[0]
        self.border: Float64Array = border[:-1]
        """Hᵀ W H between the mean motion and the other unknowns."""
        self.corner = float(border[-1])

    @property
    def design(self) -> "csr_array":
        """H `(n, 3Z + 1)`: unknowns d_0, m_0, s_0, d_1, …, and the mean motion."""
        return self._design

    def _build_design(self) -> "csr_array":
        """Return H `(n, 3Z + 1)`: unknowns d_0, m_0, s_0, d_1, m_1, s_1, … and the mean motion."""
        step = self._k + 1
        row = np.arange(len(step))
        # An observation over k sections has k entries of motion: for sections z, z-1, …, z-k+1.
        motion_row = np.repeat(row, step)
        sections_back = np.arange(len(motion_row)) - np.repeat(np.cumsum(step) - step, step)
        mean_column = UNKNOWNS_PER_SECTION * self.count
        motion_column = UNKNOWNS_PER_SECTION * (self._z[motion_row] - sections_back)
        rows = np.concatenate([row, row, row, motion_row, motion_row])
        columns = np.concatenate(
            [
                UNKNOWNS_PER_SECTION * (self._z - step),
                UNKNOWNS_PER_SECTION * self._z,
                np.full(len(row), mean_column),
                motion_column + 1,
                motion_column + 2,
            ]
        )
        entries = np.concatenate([np.ones(len(row)), -np.ones(len(row)), step, np.ones(2 * len(motion_row))])
        return csr_array((entries.astype(np.float64), (rows, columns)), shape=(len(row), mean_column + 1))

    def apply(self, unknowns: AnyArray) -> AnyArray:
        """Return H x `(n, P)`, the observations that unknowns `(3Z + 1, P)` predict; the last is the mean motion."""
        return np.asarray(self._design @ unknowns)

    def adjoint(self, values: AnyArray) -> AnyArray:
        """Return Hᵀ times values `(n, P)`: `(3Z + 1, P)`."""
        return np.asarray(self._design.T @ values)

    @property
    def indices(self) -> tuple[IndexArray, IndexArray]:
        """(k - 1, z) of each observation, `(n,)` each."""
        return self._k, self._z

    def gather(self, observed: AnyArray) -> AnyArray:
        """Return the observations `(n, …)` out of `(K, Z, …)`."""
        return np.asarray(observed[self._k, self._z])

    def scatter(self, values: AnyArray) -> AnyArray:
        """Return `(K, Z, …)` with the observations `(n, …)` at their indices, and NaN elsewhere."""
        out = np.full((*self._shape, *values.shape[1:]), np.nan, dtype=values.dtype)
        out[self._k, self._z] = values
        return out

    def factor(self, variances: Variances) -> "PosteriorFactor":
        """Factor the posterior precision of the unknowns."""
        return PosteriorFactor(self, variances)

    def solve(self, observed: Float[Float64Array, "K Z P"], variances: Variances) -> "Posterior":
        """Return the posterior means.

        Args:
            observed: T, P parameters with the same variances.
            variances: of the model.
        """
        # The posterior mean A⁻¹ Hᵀ W T / σ_e²; columns share the factor.
        values = self.gather(observed)
        unknowns = self.factor(variances).solve(self.adjoint(self.precision[:, None] * values / variances.noise))
        residual = values - self.apply(unknowns)
        return Posterior(
            distortion=unknowns[0:-1:UNKNOWNS_PER_SECTION],
            motion=unknowns[1:-1:UNKNOWNS_PER_SECTION] + unknowns[-1],
            erratic=unknowns[2:-1:UNKNOWNS_PER_SECTION],
            residual=self.scatter(residual),
        )


def certainty_from_evidence(evidence: float, *, pairs: int) -> float:
    """Return the certainty: a calibrated score, 0 to 1, read as P(displaced).

    It says how certain it is that sections were displaced one by one, as cut and mounted ones are.

    Args:
        evidence: see `evidence_of_distortion`, summed over the affine parameters.
        pairs: number of pairs of neighbours from which the evidence was computed.
    """
    excess = (evidence / max(pairs, 1) - DISPLACED_EVIDENCE) / _EVIDENCE_WIDTH
    # A logistic function; clipped so that the exponential does not overflow.
    return float(1.0 / (1.0 + np.exp(-np.clip(excess, -60.0, 60.0))))


def regularised_variances(fitted: Variances, *, certainty: float) -> Variances:
    """Return the prior variances of a solve, from fitted ones.

    Without distortion the fitted variances are returned nearly unchanged. Otherwise two of them are adjusted:

    - Erratic motion is discounted: the larger the distortion beside the motion, the larger the share of the fitted
      erratic motion that is really distortion.
    - Displaced sections are expected to be distorted by at least `min_distortion` times the natural motion. Losing
      motion is less bad than leaving distortion in, and the two are hard to separate where tissue moves most.

    Args:
        fitted: by maximum likelihood.
        certainty: P(displaced), see `certainty_from_evidence`.
    """
    floor = certainty * fitted.min_distortion**2 * fitted.motion
    # The discount is a D / (a D + M), with D and M the variances of distortion and motion. It is 0 without distortion,
    # so that undisplaced sections stay unchanged, and nears 1 with much (docs/decisions/0025). Sections that certainly
    # were displaced get all of it (docs/decisions/0009).
    distortion = _DISTORTION_FACTOR * fitted.distortion
    discount = max(certainty, distortion / (distortion + fitted.motion) if distortion > 0 else 0.0)
    # Full discount leaves ERRATIC_KEPT of the rms, that is its square of the variance.
    kept = 1.0 - discount * (1.0 - ERRATIC_KEPT**2)
    return replace(fitted, distortion=max(fitted.distortion, floor), erratic=fitted.erratic * kept)


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives by the logs of the variances, and by r."""

    distortion: float
    motion: float
    noise: float
    erratic: float
    correlation: float


class _MotionPrior:
    """The precision matrix of an AR(1) sequence of variance 1: tridiagonal (Rue & Held 2005, §1.1)."""

    def __init__(self, count: int, r: float) -> None:
        # The innovation variance Var(x_i | x_{i-1}).
        innovation = 1.0 - r**2
        self._neighbour_counts = np.full(count, 2.0)
        """Number of neighbours of each element: 1 at either end."""
        self._neighbour_counts[[0, -1]] = 1.0
        self._neighbour_counts *= count > 1
        self._derivatives_by_r = 2.0 * r / innovation**2, -(1.0 + r**2) / innovation**2
        self.diagonal: Float64Array = 1.0 + self._neighbour_counts * r**2 / innovation
        self.below = -r / innovation
        self.logdet = -(count - 1) * float(np.log(innovation))
        self.logdet_derivative = (count - 1) * 2.0 * r / innovation

    def trace_with(self, variance: Float64Array, covariance: Float64Array) -> float:
        """Return the trace with a covariance matrix, given its diagonal and its first off-diagonal."""
        return float(self.diagonal @ variance + 2.0 * self.below * covariance.sum())

    def trace_derivative(self, variance: Float64Array, covariance: Float64Array) -> float:
        """Return the derivative of `trace_with` by r, the covariance matrix held fixed."""
        diagonal, below = self._derivatives_by_r
        return float(diagonal * (self._neighbour_counts @ variance) + 2.0 * below * covariance.sum())


class PosteriorFactor:
    """Cholesky factor of the posterior precision: prior of (d, m, s, mean motion) and observations."""

    def __init__(self, model: SequenceModel, variances: Variances) -> None:
        """Factor it, unknowns scaled to unit prior variance so that a vanishing one does no harm."""
        count = model.count
        size = UNKNOWNS_PER_SECTION * count
        # The zeros after the last unknown are needed: `rows` below reads up to `bands` entries beyond it.
        scale = np.zeros(size + 1 + model.bands)
        scale[0:size:UNKNOWNS_PER_SECTION] = variances.distortion**0.5
        scale[1:size:UNKNOWNS_PER_SECTION] = variances.motion**0.5
        scale[2:size:UNKNOWNS_PER_SECTION] = variances.erratic**0.5
        # The motion from z to z-1 is unknown at a jump: its prior is as good as flat.
        for z in model.jumps:
            scale[UNKNOWNS_PER_SECTION * z + 2] = model.jump_sd
        self._prior = _MotionPrior(count, variances.correlation)
        # Entry [o, j] of the band is scaled by its column j and its row j + o: the latter is a view of `scale` that is
        # shifted by o. Past the last row it reads the trailing zeros of `scale`: the mean motion is set below.
        rows = as_strided(scale, (size, model.bands + 1), (scale.itemsize, scale.itemsize), writeable=False).T
        precision = model.gram * (scale[:size] / variances.noise)
        precision *= rows
        # The prior precision: 1 for d and s, AR(1) for m.
        precision[0] += 1.0
        precision[0, 1::UNKNOWNS_PER_SECTION] += self._prior.diagonal - 1.0
        if count > 1:
            precision[UNKNOWNS_PER_SECTION, 1 : size - UNKNOWNS_PER_SECTION : UNKNOWNS_PER_SECTION] += self._prior.below
        scale = scale[: size + 1]
        scale[-1] = variances.tilt
        border = scale[:-1] * model.border * (scale[-1] / variances.noise)
        self.scale: Float64Array = scale
        """Prior standard deviations of the unknowns `(3Z + 1,)`."""
        # Bordered system: the mean motion is eliminated by its Schur complement.
        self._factor = BandedCholesky(precision)
        self._border = border
        self._eliminated = self._factor.solve(border)
        self._corner = 1.0 + model.corner * scale[-1] ** 2 / variances.noise - border @ self._eliminated
        self.logdet = float(self._factor.logdet + np.log(self._corner) - self._prior.logdet)
        """log det of posterior over prior precision, of the unscaled unknowns."""
        # At a jump s_z has the variance of a jump, so it is excluded from the estimate of σ_s².
        self._without_jump = np.ones(count, dtype=np.bool_)
        """Sections whose erratic motion has the variance σ_s²."""
        self._without_jump[list(model.jumps)] = False

    def solve(self, right: AnyArray) -> AnyArray:
        """Return the posterior covariance times `(3Z + 1, P)`."""
        return self.solve_scaled(self.scale[:, None] * right) * self.scale[:, None]

    def solve_scaled(self, right: Float64Array) -> Float64Array:
        """Return `solve` for unknowns in units of their prior standard deviations, `right` times these."""
        unknowns = np.empty_like(right)
        unknowns[:-1] = self._factor.solve(right[:-1])
        unknowns[-1] = (right[-1] - self._border @ unknowns[:-1]) / self._corner
        unknowns[:-1] -= self._eliminated[:, None] * unknowns[-1]
        return unknowns

    def logdet_derivatives(self) -> "Derivatives":
        """Return the derivatives of `logdet`, from the posterior covariance near its diagonal."""
        band = self._factor.inverse_band(width=UNKNOWNS_PER_SECTION)
        # Eliminating the mean motion adds a matrix of rank one to the inverse of the banded part.
        variance = band[0] + self._eliminated**2 / self._corner
        d, m, s = (variance[i::UNKNOWNS_PER_SECTION] for i in range(UNKNOWNS_PER_SECTION))
        mean_response = self._eliminated[1::UNKNOWNS_PER_SECTION]
        covariance = (
            band[UNKNOWNS_PER_SECTION, 1::UNKNOWNS_PER_SECTION][:-1]
            + mean_response[:-1] * mean_response[1:] / self._corner
        )
        motion = self._prior.trace_with(m, covariance)
        # All derivatives follow from traces tr(Q A⁻¹): unknowns that the data determine fully contribute 0.
        trace = float(d.sum() + s.sum()) + motion + 1.0 / float(self._corner)
        return Derivatives(
            distortion=len(d) - float(d.sum()),
            motion=len(m) - motion,
            noise=trace - (len(variance) + 1),
            erratic=float((1.0 - s)[self._without_jump].sum()),
            correlation=self._prior.trace_derivative(m, covariance) - self._prior.logdet_derivative,
        )

    def prior_derivatives(self, unknowns: Float64Array) -> "Derivatives":
        """Return the derivatives of xᵀ Q x, Q the prior precision, with x `(3Z + 1, P)` held fixed.

        The entry `noise` is -xᵀ Q x itself.

        Args:
            unknowns: x as `solve_scaled` returns it.
        """
        squares = np.vecdot(unknowns, unknowns)
        d, m, s = (squares[i:-1:UNKNOWNS_PER_SECTION] for i in range(UNKNOWNS_PER_SECTION))
        values = unknowns[1:-1:UNKNOWNS_PER_SECTION]
        products = np.vecdot(values[:-1], values[1:])
        motion = self._prior.trace_with(m, products)
        return Derivatives(
            distortion=-float(d.sum()),
            motion=-motion,
            noise=-(float(d.sum() + s.sum() + squares[-1]) + motion),
            erratic=-float(s[self._without_jump].sum()),
            correlation=self._prior.trace_derivative(m, products),
        )

    def erratic_variance(self) -> tuple[Float[Float64Array, " Z"], Float[Float64Array, " Z"]]:
        """Return posterior and prior variance of s_z."""
        prior = self.scale[2:-1:UNKNOWNS_PER_SECTION] ** 2
        scaled = self._factor.inverse_band(width=0)[0, 2::UNKNOWNS_PER_SECTION]
        return (scaled + self._eliminated[2::UNKNOWNS_PER_SECTION] ** 2 / self._corner) * prior, prior

    def distortion_covariance(self, *, reach: int) -> Float[Float64Array, "lags Z"]:
        """Return the posterior covariance of d_z and d_{z+k}, k = 0 … reach; 0 if z + k does not exist."""
        band = self._factor.inverse_band(width=UNKNOWNS_PER_SECTION * reach)[
            ::UNKNOWNS_PER_SECTION, ::UNKNOWNS_PER_SECTION
        ]
        mean_response = self._eliminated[::UNKNOWNS_PER_SECTION]
        scale = self.scale[0:-1:UNKNOWNS_PER_SECTION]
        count = len(scale)
        # Scaled back from unit prior variance, and with the part of the mean motion, which all sections share.
        out = np.zeros_like(band)
        for k in range(min(reach, count - 1) + 1):
            first, second = slice(0, count - k), slice(k, count)
            shared = mean_response[first] * mean_response[second] / self._corner
            out[k, first] = (band[k, first] + shared) * scale[first] * scale[second]
        return out


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior means."""

    distortion: Float[Float64Array, "Z P"]
    """d."""
    motion: Float[Float64Array, "Z P"]
    """m: natural motion from z to z-1, its mean included."""
    erratic: Float[Float64Array, "Z P"]
    """s: erratic motion from z to z-1; at a jump all of the jump."""
    residual: Float[Float64Array, "K Z P"]
    """Observations without what the unknowns predict; NaN if nothing was observed."""
