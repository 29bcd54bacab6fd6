"""Banded, symmetric, positive definite matrices: solving, and the entries of their inverse near the diagonal.

By blocks some times as wide as the band, of which a matrix has few and whose products are fast, since LAPACK's banded
solvers take one column after another; a few columns are left to them. Blocks that wide are coupled by a corner as wide
as the band alone. The cost is linear in the size of the matrix.
Laws: `solve` equals the dense solution, and `inverse_band` the band of the dense inverse.

Source: Takahashi, Fagan & Chin 1973; Rue & Held, Gaussian Markov Random Fields, 2005, §2.4.5.
"""

from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import LinAlgError, lapack

from ssem_dask.types import Float64Array

_FEW = 8
"""Columns up to which LAPACK is faster than blocks."""
_BANDS = 3
"""Widths of the band in a block. Fewer make many small products, more make needless ones: measured."""


class BandedCholesky:
    """L of A = L Lᵀ."""

    def __init__(self, matrix: Float64Array) -> None:
        """Factor it.

        Args:
            matrix: A `(bands + 1, n)`, lower banded: `[o, j]` is the entry of row j + o and column j; fastest in
                Fortran's order.

        Raises:
            numpy.linalg.LinAlgError: A is not positive definite.
        """
        factor, failed = lapack.dpbtrf(matrix, lower=1)
        if failed:
            raise LinAlgError(f"{failed}-th leading minor not positive definite")
        self._factor: Float64Array = factor

    @cached_property
    def _blocks(self) -> "_Blocks":
        return _Blocks(self._factor, side=_BANDS * max(len(self._factor) - 1, 1))

    @property
    def logdet(self) -> float:
        """log det A."""
        return float(2.0 * np.log(self._factor[0]).sum())

    def solve(self, right: Float64Array) -> Float64Array:
        """A⁻¹ times `(n,)` or `(n, P)`."""
        if right.ndim == 1 or right.shape[1] <= _FEW:
            return np.asarray(lapack.dpbtrs(self._factor, right, lower=1)[0])
        return self._blocks.solve(right)

    def inverse_band(self, *, width: int) -> Float64Array:
        """The band of A⁻¹ `(width + 1, n)`, lower, 0 where row j + o does not exist; `width` may be more than A has."""
        blocks = self._blocks if width <= self._blocks.side else _Blocks(self._factor, side=width)
        return blocks.inverse_band(width=width)


class _Blocks:
    """L in square blocks: on its diagonal, and what is below it, a corner of the next one."""

    def __init__(self, factor: Float64Array, *, side: int) -> None:
        """Cut it; a last block that is not full is continued by the identity.

        Args:
            factor: L, lower banded.
            side: of a block; no less than the width of the band.
        """
        bands, self._size = len(factor), factor.shape[1]
        self.side, self._count = side, -(-self._size // side)
        reach = bands - 1
        # With as many zeros after each column as a block has rows, blocks are views: a row is one entry on, a column
        # all of them but one, and what is above the diagonal lies in the zeros of the column before.
        length = side + reach
        columns = np.zeros((self._count * side, length))
        columns[: self._size, :bands] = factor.T
        columns[self._size :, 0] = 1.0
        for row in range(max(self._size - reach, 0), self._size):  # what lies beyond the last row is no part of L
            columns[row, self._size - row : bands] = 0.0
        step = columns.itemsize
        both = as_strided(
            columns, (self._count, side, length), (side * length * step, (length - 1) * step, step), writeable=False
        )
        self._inverse = both[:, :, :side].copy()
        """Of the blocks on the diagonal, transposed."""
        for block in self._inverse:
            lapack.dtrtri(block.T, lower=1, overwrite_c=1)
        self._reach = reach
        self._corner = both[:-1, side - reach :, side:].transpose(0, 2, 1).copy()
        """Of the first rows of the next block with the last columns of one."""

    def solve(self, right: Float64Array) -> Float64Array:
        """A⁻¹ times `(n, P)`."""
        padded = np.zeros((self._count * self.side, right.shape[1]))
        padded[: self._size] = right
        part = padded.reshape(self._count, self.side, -1)
        first, last = slice(0, self._reach), slice(self.side - self._reach, self.side)
        part[0] = self._inverse[0].T @ part[0]
        for j in range(1, self._count):
            part[j, first] -= self._corner[j - 1] @ part[j - 1, last]
            part[j] = self._inverse[j].T @ part[j]
        part[-1] = self._inverse[-1] @ part[-1]
        for j in range(self._count - 2, -1, -1):
            part[j, last] -= self._corner[j].T @ part[j + 1, first]
            part[j] = self._inverse[j] @ part[j]
        return padded[: self._size]

    def inverse_band(self, *, width: int) -> Float64Array:
        """The band of A⁻¹; at most as wide as a block."""
        side, reach = self.side, self._reach
        handed = self._corner @ self._inverse[:-1, :, side - reach :].transpose(0, 2, 1)
        columns = np.zeros((self._count, side, side + width))
        near = columns[:, :, :side]
        np.matmul(self._inverse, self._inverse.transpose(0, 2, 1), out=near)
        # A⁻¹ among the rows of a block follows from that among the first rows of the next block, and those come first:
        # one after another, hence as little as can be.
        corners = near[:, :reach, :reach].copy()
        for j in range(self._count - 2, -1, -1):
            step = handed[j, :, :reach]
            corners[j] += step.T @ corners[j + 1] @ step
        back = handed.transpose(0, 2, 1) @ corners[1:]
        near[:-1] += back @ handed
        columns[:-1, :, side:] = -handed.transpose(0, 2, 1) @ near[1:, :reach, :width]
        flat = columns.reshape(self._count, -1)
        out = np.empty((width + 1, self._count * side))
        for offset in range(width + 1):
            out[offset].reshape(self._count, side)[:] = flat[:, offset :: side + width + 1]
        out = out[:, : self._size]
        for offset in range(1, width + 1):
            out[offset, max(self._size - offset, 0) :] = 0.0
        return out
