"""Banded, symmetric, positive definite matrices: solving, and the entries of their inverse near the diagonal.

By blocks as wide as the band, of which a matrix has few and numpy's products are fast, since LAPACK's banded solvers
take one column after another; a few columns are left to them. The cost is linear in the size of the matrix.
Laws: `solve` equals the dense solution, and `inverse_band` the band of the dense inverse.

Source: Takahashi, Fagan & Chin 1973; Rue & Held, Gaussian Markov Random Fields, 2005, §2.4.5.
"""

from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded

from ssem_dask.types import Float64Array

_FEW = 8
"""Columns up to which LAPACK is faster than blocks."""


class BandedCholesky:
    """L of A = L Lᵀ."""

    def __init__(self, matrix: Float64Array) -> None:
        """Factor it.

        Args:
            matrix: A `(bands + 1, n)`, lower banded: `[o, j]` is the entry of row j + o and column j.

        Raises:
            numpy.linalg.LinAlgError: A is not positive definite.
        """
        self._factor: Float64Array = cholesky_banded(matrix, lower=True, check_finite=False)

    @cached_property
    def _blocks(self) -> "_Blocks":
        return _Blocks(self._factor, side=max(len(self._factor) - 1, 1))

    @property
    def logdet(self) -> float:
        """log det A."""
        return float(2.0 * np.log(self._factor[0]).sum())

    def solve(self, right: Float64Array) -> Float64Array:
        """A⁻¹ times `(n,)` or `(n, P)`."""
        if right.ndim == 1 or right.shape[1] <= _FEW:
            return np.asarray(cho_solve_banded((self._factor, True), right, check_finite=False))
        return self._blocks.solve(right)

    def inverse_band(self, *, width: int) -> Float64Array:
        """The band of A⁻¹ `(width + 1, n)`, lower, 0 where row j + o does not exist; `width` may be more than A has."""
        blocks = self._blocks if width <= self._blocks.side else _Blocks(self._factor, side=width)
        return blocks.inverse_band(width=width)


class _Blocks:
    """L in square blocks: on its diagonal and below it there is nothing but zeros beyond the next one."""

    def __init__(self, factor: Float64Array, *, side: int) -> None:
        """Cut it; a last block that is not full is continued by the identity."""
        bands, self._size = len(factor), factor.shape[1]
        self.side, self._count = side, -(-self._size // side)
        padded = np.zeros((bands, self._count * side))
        padded[0] = 1.0
        padded[:, : self._size] = factor
        for offset in range(1, bands):  # what lies beyond the last row is no part of L
            padded[offset, max(self._size - offset, 0) : self._size] = 0.0
        both = np.zeros((self._count, 2 * side, side))
        column = np.arange(side)
        for offset, entries in enumerate(padded.reshape(bands, self._count, side)):
            both[:, column + offset, column] = entries
        self._inverse = np.linalg.inv(both[:, :side])
        """Of the blocks on the diagonal."""
        self._below = both[:-1, side:]

    def solve(self, right: Float64Array) -> Float64Array:
        """A⁻¹ times `(n, P)`."""
        padded = np.zeros((self._count * self.side, right.shape[1]))
        padded[: self._size] = right
        part = padded.reshape(self._count, self.side, -1)
        part[0] = self._inverse[0] @ part[0]
        for j in range(1, self._count):
            part[j] = self._inverse[j] @ (part[j] - self._below[j - 1] @ part[j - 1])
        part[-1] = self._inverse[-1].T @ part[-1]
        for j in range(self._count - 2, -1, -1):
            part[j] = self._inverse[j].T @ (part[j] - self._below[j].T @ part[j + 1])
        return padded[: self._size]

    def inverse_band(self, *, width: int) -> Float64Array:
        """The band of A⁻¹; at most as wide as a block."""
        handed = self._below @ self._inverse[:-1]
        near = self._inverse.transpose(0, 2, 1) @ self._inverse
        for j in range(self._count - 2, -1, -1):  # A⁻¹ among the rows of block j, from that of block j + 1
            near[j] += handed[j].T @ near[j + 1] @ handed[j]
        columns = np.zeros((self._count, 2 * self.side, self.side))
        columns[:, : self.side] = near
        columns[:-1, self.side :] = -near[1:] @ handed
        column = np.arange(self.side)
        out = np.stack([columns[:, column + o, column].reshape(-1)[: self._size] for o in range(width + 1)])
        for offset in range(1, width + 1):
            out[offset, max(self._size - offset, 0) :] = 0.0
        return out
