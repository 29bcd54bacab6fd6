"""The likelihood of short sequences, by the covariance of what is observed instead of the precision of the unknowns.

Observations depend on the unknowns only through what lies between neighbours, Δ_z = d_{z-1} - d_z + m_z + s_z plus the
mean motion: T = H Δ + e. So one unknown for each section is left of three, of covariance S. S has no band, but products
of whole matrices of a few hundred rows take less time than the many small ones of a banded solve.

With the QR decomposition W^½ H = Q R the columns t = Qᵀ W^½ T hold all that T says of Δ. They have the covariance

    V + U Uᵀ,      V = R S Rᵀ + σ_e²,

with U the mean motion and the jumps at breaks, which are kept apart since they are by far larger than the rest. With
X = (V + U Uᵀ)⁻¹ t, and M = P (V + U Uᵀ)⁻¹ - X Xᵀ, a variance σ² of Δ that has the covariance σ² C contributes
σ² tr(Rᵀ M R C) to the derivative of -2 log p by log σ². All of these C are sums of diagonals or of diagonals that fall
off geometrically, so the sums along the diagonals of Rᵀ M R are enough. That of σ_e² is what is left of P n - tᵀ X.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import LinAlgError, lapack
from scipy.linalg.blas import dsyrk, dtrsm
from scipy.sparse import csr_array

from ssem_dask.composition.separation.sequence import UNKNOWNS, SequenceModel, Variances
from ssem_dask.types import Float64Array

_ROUNDING = 1e-15
"""Of the largest entry of R: what is less comes of rounding."""


class ShortLikelihood:
    """Of given observations, as a function of the variances; see `likelihood.Likelihood`, whose law it obeys."""

    def __init__(self, model: SequenceModel, values: Float64Array) -> None:
        """Set up.

        Args:
            model: which observations there are, and what they are worth; of two sections at least.
            values: `(n, P)`: P columns with the same variances.
        """
        self._columns, self._size = values.shape[1], model.count - 1
        size = self._size
        worth = np.sqrt(model.precision)[:, None]
        moved = model.design[:, UNKNOWNS + 1 : -1 : UNKNOWNS].toarray()
        both: Float64Array = np.asarray(np.linalg.qr(worth * np.concatenate([moved, values], axis=1), mode="r"))
        both = np.concatenate([both, np.zeros((max(size - len(both), 0), both.shape[1]))])
        root = both[:size, :size]
        self._root = csr_array(np.where(np.abs(root) > _ROUNDING * np.abs(root).max(initial=0.0), root, 0.0))
        """R, nearly banded; rows of zeros where there are fewer observations than unknowns."""
        known = both[:size, size:]
        self._left = float(np.square(both[size:, size:]).sum())
        """What no Δ explains."""
        self._beyond = len(values) - size
        """Degrees of freedom of that; negative where R has rows of zeros, of which it then undoes the noise."""
        if known.shape[1] > size:  # columns count by their products alone
            known = np.asarray(np.linalg.qr(known.T, mode="r")).T
        at = np.array(model.breaks, dtype=np.intp) - 1
        self._apart = np.zeros((size, 1 + len(at)))
        """U without R and without the standard deviations of these causes."""
        self._apart[:, 0] = 1.0
        self._apart[at, 1 + np.arange(len(at))] = 1.0
        self._scales = np.full(1 + len(at), model.jump)
        self._eye = np.eye(1 + len(at))
        self._free = np.ones(size)
        self._free[at] = 0.0
        self._given: Float64Array = np.asfortranarray(np.concatenate([root, known], axis=1))
        self._lags = np.arange(size)
        # Toeplitz matrices are views of a line, and diagonals lie side by side in a view with rows one entry longer.
        self._line = np.zeros(2 * size - 1)
        step = self._line.itemsize
        self._toeplitz = as_strided(self._line[size - 1 :], (size, size), (step, -step))
        space = np.zeros(size * size + size)
        self._product = space[: size * size].reshape(size, size, order="F")
        self._by_lag = as_strided(space, (size, size), ((size + 1) * step, step))

    def at(self, variances: Variances) -> tuple[float, Float64Array]:
        """Log likelihood, up to a constant, and its derivatives by the logs of σ_D², σ_m², σ_e² and σ_s², and by r."""
        size, columns, r = self._size, self._columns, variances.correlation
        falling = r**self._lags
        lower, failed = lapack.dpotrf(self._covariance(variances, falling), lower=1, clean=0, overwrite_a=1)
        if failed:
            raise LinAlgError("covariance of the observations: not positive definite")
        whitened = dtrsm(1.0, lower, self._given, lower=1)
        root, known = whitened[:, :size], whitened[:, size:]
        # (V + U Uᵀ)⁻¹ = L⁻ᵀ (I - A Aᵀ) L⁻¹, with V = L Lᵀ and A the part of U, whitened and made orthogonal.
        scales = self._scales.copy()
        scales[0] = variances.tilt
        apart = (root @ self._apart) * scales
        corner = lapack.dpotrf(self._eye + apart.T @ apart, lower=1)[0]
        unit = lapack.dtrtri(corner, lower=1)[0]
        apart = apart @ unit.T
        shared = apart.T @ known
        misfit = float(np.vdot(known, known) - np.vdot(shared, shared)) + self._left / variances.noise
        logdet = 2.0 * float(np.log(lower.diagonal()).sum() + np.log(corner.diagonal()).sum())
        logdet += self._beyond * float(np.log(variances.noise))
        explained = columns * (len(unit) - float(np.vdot(unit, unit))) - float(np.square(unit.T @ shared).sum())

        less = np.empty((size, known.shape[1] + len(unit)), order="F")
        np.matmul(root.T, known - apart @ shared, out=less[:, : known.shape[1]])
        np.matmul(root.T, columns**0.5 * apart, out=less[:, known.shape[1] :])
        sums, diagonal = self._diagonals(root, less)
        distortion = variances.distortion * 2.0 * float(sums[0] - sums[1:2].sum())
        motion = variances.motion * float(2.0 * (falling @ sums) - sums[0])
        erratic = variances.erratic * float(self._free @ diagonal)
        steep = variances.motion * 2.0 * float((self._lags[1:] * falling[:-1]) @ sums[1:])
        noise = columns * (size + self._beyond) - misfit - distortion - motion - erratic - explained
        return -0.5 * (columns * logdet + misfit), -0.5 * np.array([distortion, motion, noise, erratic, steep])

    def _covariance(self, variances: Variances, falling: Float64Array) -> Float64Array:
        """V, in Fortran's order."""
        size = self._size
        self._line[size - 1 :] = falling * variances.motion
        self._line[: size - 1] = self._line[: size - 1 : -1]
        out = self._toeplitz.copy()
        flat = out.reshape(-1)
        flat[:: size + 1] += 2.0 * variances.distortion + variances.erratic * self._free
        flat[1 :: size + 1] -= variances.distortion
        flat[size :: size + 1] -= variances.distortion
        out = self._root @ np.ascontiguousarray((self._root @ out).T)
        out.reshape(-1)[:: size + 1] += variances.noise
        return np.asarray(out.T)

    def _diagonals(self, root: Float64Array, less: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Sums along the diagonals of P rootᵀ root - less lessᵀ from the main one down, and the main one itself."""
        dsyrk(self._columns, root, trans=1, lower=1, c=self._product, overwrite_c=1)
        dsyrk(-1.0, less, beta=1.0, c=self._product, lower=1, overwrite_c=1)
        # Nothing is written above the main diagonal, so rows of the lower part may run on into the zeros there.
        return self._by_lag.sum(axis=0), self._by_lag[:, 0]
