"""The likelihood of short sequences, by the covariance of the observations instead of the precision of the unknowns.

Observations depend on the unknowns only through what is between neighbours, Δ_z = d_{z-1} - d_z + m_z + s_z plus the
mean motion: T = H Δ + e. So one unknown per section remains of three, of covariance S. S has no band, but products of
whole matrices of a few hundred rows take less time than the many small products of a banded solve.

With the QR decomposition W^½ H = Q R the columns t = Qᵀ W^½ T hold all that T says about Δ. They have the covariance

    V + U Uᵀ,      V = R S Rᵀ + σ_e²,

with U the mean motion and the jumps, which are kept apart since they are far larger than the rest. With
X = (V + U Uᵀ)⁻¹ t, and M = P (V + U Uᵀ)⁻¹ - X Xᵀ, a variance σ² of Δ that has the covariance σ² C contributes
σ² tr(Rᵀ M R C) to the derivative of -2 log p by log σ². All of these C are sums of diagonals, or of diagonals that fall
off geometrically, so the sums along the diagonals of Rᵀ M R are enough. The derivative by log σ_e² is what remains of
P n - tᵀ X.
"""

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import LinAlgError, lapack
from scipy.linalg.blas import dsyrk, dtrsm
from scipy.sparse import csr_array

from ssem_dask.composition.separation.sequence import UNKNOWNS_PER_SECTION, SequenceModel, Variances
from ssem_dask.types import Float64Array

_ROUNDING = 1e-15
"""Entries of R below this share of its largest entry are rounding errors."""


class DenseLikelihood:
    """The likelihood of observations as a function of the variances, by whole matrices.

    Law: it equals `likelihood.BandedLikelihood`.
    """

    def __init__(self, model: SequenceModel, values: Float[Float64Array, "n P"]) -> None:
        """Compute what does not depend on the variances.

        Args:
            model: which observations there are, and their weights; of two sections at least.
            values: the observations, P columns with the same variances.
        """
        self._columns, self._size = values.shape[1], model.count - 1
        size = self._size
        weight_root = np.sqrt(model.precision)[:, None]
        # The columns of m_1, m_2, … in the full design are those of Δ here.
        design = model.design[:, UNKNOWNS_PER_SECTION + 1 : -1 : UNKNOWNS_PER_SECTION].toarray()
        triangle: Float64Array = np.asarray(
            np.linalg.qr(weight_root * np.concatenate([design, values], axis=1), mode="r")
        )
        triangle = np.concatenate([triangle, np.zeros((max(size - len(triangle), 0), triangle.shape[1]))])
        root = triangle[:size, :size]
        self._root = csr_array(np.where(np.abs(root) > _ROUNDING * np.abs(root).max(initial=0.0), root, 0.0))
        """R, nearly banded; rows of zeros if there are fewer observations than unknowns."""
        explained = triangle[:size, size:]
        self._unexplained = float(np.square(triangle[size:, size:]).sum())
        """Squares that no Δ explains."""
        self._unexplained_count = len(values) - size
        """Degrees of freedom of `_unexplained`; negative if R has rows of zeros, whose noise it then takes back."""
        if explained.shape[1] > size:  # the likelihood depends on t tᵀ alone, so as many columns as rows are enough
            explained = np.asarray(np.linalg.qr(explained.T, mode="r")).T
        jump_index = np.array(model.jumps, dtype=np.intp) - 1
        self._causes = np.zeros((size, 1 + len(jump_index)))
        """U without R, and without the standard deviations of these causes: the mean motion, then the jumps."""
        self._causes[:, 0] = 1.0
        self._causes[jump_index, 1 + np.arange(len(jump_index))] = 1.0
        self._cause_scales = np.full(1 + len(jump_index), model.jump_sd)
        self._eye = np.eye(1 + len(jump_index))
        self._without_jump = np.ones(size)
        self._without_jump[jump_index] = 0.0
        self._root_and_data: Float64Array = np.asfortranarray(np.concatenate([root, explained], axis=1))
        self._lags = np.arange(size)
        # A Toeplitz matrix is a strided view of a line, and the diagonals of a matrix are the columns of a view whose
        # rows are one entry longer: both are set up once, since `at` is called some hundred times.
        self._line = np.zeros(2 * size - 1)
        step = self._line.itemsize
        self._toeplitz = as_strided(self._line[size - 1 :], (size, size), (step, -step))
        space = np.zeros(size * size + size)
        self._product = space[: size * size].reshape(size, size, order="F")
        self._by_lag = as_strided(space, (size, size), ((size + 1) * step, step))

    def at(self, variances: Variances) -> tuple[float, Float64Array]:
        """Return the log likelihood, up to a constant, and its derivatives.

        The derivatives are by the logs of σ_D², σ_m², σ_e² and σ_s², and by r.
        """
        size, columns, r = self._size, self._columns, variances.correlation
        decay = r**self._lags
        lower, failed = lapack.dpotrf(self._covariance(variances, decay), lower=1, clean=0, overwrite_a=1)
        if failed:
            raise LinAlgError("covariance of the observations: not positive definite")
        whitened = dtrsm(1.0, lower, self._root_and_data, lower=1)
        root, data = whitened[:, :size], whitened[:, size:]
        # (V + U Uᵀ)⁻¹ = L⁻ᵀ (I - A Aᵀ) L⁻¹, with V = L Lᵀ and A = U, whitened and made orthogonal (Woodbury).
        scales = self._cause_scales.copy()
        scales[0] = variances.tilt
        causes = (root @ self._causes) * scales
        corner = lapack.dpotrf(self._eye + causes.T @ causes, lower=1)[0]
        corner_inverse = lapack.dtrtri(corner, lower=1)[0]
        causes = causes @ corner_inverse.T
        projection = causes.T @ data
        misfit = float(np.vdot(data, data) - np.vdot(projection, projection)) + self._unexplained / variances.noise
        logdet = 2.0 * float(np.log(lower.diagonal()).sum() + np.log(corner.diagonal()).sum())
        logdet += self._unexplained_count * float(np.log(variances.noise))
        by_causes = columns * (len(corner_inverse) - float(np.vdot(corner_inverse, corner_inverse)))
        by_causes -= float(np.square(corner_inverse.T @ projection).sum())

        # Rᵀ M R = P rootᵀ root - subtracted subtractedᵀ.
        subtracted = np.empty((size, data.shape[1] + len(corner_inverse)), order="F")
        np.matmul(root.T, data - causes @ projection, out=subtracted[:, : data.shape[1]])
        np.matmul(root.T, columns**0.5 * causes, out=subtracted[:, data.shape[1] :])
        sums, diagonal = self._diagonals(root, subtracted)
        # C of distortion is tridiagonal (2, -1), C of motion is r^|lag|, C of erratic motion is diagonal.
        distortion = variances.distortion * 2.0 * float(sums[0] - sums[1:2].sum())
        motion = variances.motion * float(2.0 * (decay @ sums) - sums[0])
        erratic = variances.erratic * float(self._without_jump @ diagonal)
        correlation = variances.motion * 2.0 * float((self._lags[1:] * decay[:-1]) @ sums[1:])
        noise = columns * (size + self._unexplained_count) - misfit - distortion - motion - erratic - by_causes
        return -0.5 * (columns * logdet + misfit), -0.5 * np.array([distortion, motion, noise, erratic, correlation])

    def _covariance(self, variances: Variances, decay: Float64Array) -> Float64Array:
        """Return V, in Fortran's order."""
        size = self._size
        # S: Toeplitz for the motion, tridiagonal for the distortion, diagonal for the erratic motion.
        self._line[size - 1 :] = decay * variances.motion
        self._line[: size - 1] = self._line[: size - 1 : -1]
        out = self._toeplitz.copy()
        flat = out.reshape(-1)
        flat[:: size + 1] += 2.0 * variances.distortion + variances.erratic * self._without_jump
        flat[1 :: size + 1] -= variances.distortion
        flat[size :: size + 1] -= variances.distortion
        out = self._root @ np.ascontiguousarray((self._root @ out).T)
        out.reshape(-1)[:: size + 1] += variances.noise
        return np.asarray(out.T)

    def _diagonals(self, root: Float64Array, subtracted: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the sums along the diagonals of Rᵀ M R from the main one down, and the main diagonal itself."""
        dsyrk(self._columns, root, trans=1, lower=1, c=self._product, overwrite_c=1)
        dsyrk(-1.0, subtracted, beta=1.0, c=self._product, lower=1, overwrite_c=1)
        # Nothing is written above the main diagonal, so rows of the lower part may run on into the zeros there.
        return self._by_lag.sum(axis=0), self._by_lag[:, 0]
