"""Banded, symmetric, positive definite matrices: solving, and the entries of their inverse near the diagonal.

LAPACK's banded solvers take one column after another, so they serve few columns only. For more, the factor is cut into
square blocks some times as wide as the band: a matrix has few of them, and their products are fast. Two consecutive
blocks are coupled by a corner as wide as the band alone. The cost is linear in the size of the matrix.
Laws: `solve` equals the dense solution, and `inverse_band` the band of the dense inverse.

Source: Takahashi, Fagan & Chin 1973; Rue & Held, Gaussian Markov Random Fields, 2005, §2.4.5.
"""

from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import LinAlgError, lapack

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import Float64Array

_LAPACK_COLUMNS = 8
"""Columns up to which LAPACK is faster than blocks."""
_BANDS_PER_BLOCK = 3
"""Side of a block, in widths of the band. Fewer make many small products, more make needless ones: measured."""


class BandedCholesky:
    """The Cholesky factor L of A = L Lᵀ."""

    def __init__(self, matrix: Float[Float64Array, "diagonals n"]) -> None:
        """Factor the matrix.

        Args:
            matrix: A `(bands + 1, n)`, lower banded: `[o, j]` is the entry of row j + o and column j; fastest in
                Fortran's order.

        Raises:
            numpy.linalg.LinAlgError: A is not positive definite.
        """
        factor, failed_minor = lapack.dpbtrf(matrix, lower=1)
        if failed_minor:
            raise LinAlgError(f"{failed_minor}-th leading minor not positive definite")
        self._factor: Float64Array = factor

    @cached_property
    def _blocks(self) -> "_Blocks":
        return _Blocks(self._factor, side=_BANDS_PER_BLOCK * max(len(self._factor) - 1, 1))

    @property
    def logdet(self) -> float:
        """The natural logarithm of det A."""
        return float(2.0 * np.log(self._factor[0]).sum())

    def solve(self, right: Float[Float64Array, "n *P"]) -> Float[Float64Array, "n *P"]:
        """Return A⁻¹ times the columns of the right side."""
        if right.ndim == 1 or right.shape[1] <= _LAPACK_COLUMNS:
            return np.asarray(lapack.dpbtrs(self._factor, right, lower=1)[0])
        return self._blocks.solve(right)

    def inverse_band(self, *, width: int) -> Float[Float64Array, "diagonals n"]:
        """Return the band of A⁻¹ `(width + 1, n)`, lower; 0 if row j + o does not exist.

        Args:
            width: of the band; may be more than A has.
        """
        blocks = self._blocks if width <= self._blocks.side else _Blocks(self._factor, side=width)
        return blocks.inverse_band(width=width)


class _Blocks:
    """L in square blocks: those on its diagonal, and for each the part below it, a corner of the next block's rows."""

    def __init__(self, factor: Float64Array, *, side: int) -> None:
        """Cut the factor; a last block that is not full is continued by the identity.

        Args:
            factor: L, lower banded.
            side: of a block; no less than the width of the band.
        """
        diagonals, self._size = len(factor), factor.shape[1]
        self.side, self._count = side, ceil_div(self._size, side)
        bands = diagonals - 1
        # Each column is followed by as many zeros as a block has rows. Then blocks are views: the next row is one entry
        # on, the next column one row length less one, and entries above the diagonal fall into the previous zeros.
        length = side + bands
        columns = np.zeros((self._count * side, length))
        columns[: self._size, :diagonals] = factor.T
        columns[self._size :, 0] = 1.0
        for row in range(max(self._size - bands, 0), self._size):  # entries beyond the last row are no part of L
            columns[row, self._size - row : diagonals] = 0.0
        step = columns.itemsize
        both = as_strided(
            columns, (self._count, side, length), (side * length * step, (length - 1) * step, step), writeable=False
        )
        # Inverting the small triangles once turns every later substitution into a matrix product.
        self._inverse = both[:, :, :side].copy()
        """Inverses of the blocks on the diagonal, transposed."""
        for block in self._inverse:
            lapack.dtrtri(block.T, lower=1, overwrite_c=1)
        self._bands = bands
        self._corner = both[:-1, side - bands :, side:].transpose(0, 2, 1).copy()
        """First rows of the next block against the last columns of this one."""

    def solve(self, right: Float64Array) -> Float64Array:
        """Return A⁻¹ times `(n, P)`."""
        padded = np.zeros((self._count * self.side, right.shape[1]))
        padded[: self._size] = right
        part = padded.reshape(self._count, self.side, -1)
        first, last = slice(0, self._bands), slice(self.side - self._bands, self.side)
        # Forward substitution with L, then backward substitution with Lᵀ.
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
        """Return the band of A⁻¹; at most as wide as a block."""
        side, bands = self.side, self._bands
        coupling = self._corner @ self._inverse[:-1, :, side - bands :].transpose(0, 2, 1)
        columns = np.zeros((self._count, side, side + width))
        near = columns[:, :, :side]
        np.matmul(self._inverse, self._inverse.transpose(0, 2, 1), out=near)
        # Takahashi's recursion: A⁻¹ within a block follows from A⁻¹ within the first rows of the next block. Only these
        # corners depend on each other, so the sequential loop holds nothing else.
        corners = near[:, :bands, :bands].copy()
        for j in range(self._count - 2, -1, -1):
            step = coupling[j, :, :bands]
            corners[j] += step.T @ corners[j + 1] @ step
        back = coupling.transpose(0, 2, 1) @ corners[1:]
        near[:-1] += back @ coupling
        columns[:-1, :, side:] = -coupling.transpose(0, 2, 1) @ near[1:, :bands, :width]
        # A diagonal of the block columns is a strided run of their flattened rows.
        flat = columns.reshape(self._count, -1)
        out = np.empty((width + 1, self._count * side))
        for offset in range(width + 1):
            out[offset].reshape(self._count, side)[:] = flat[:, offset :: side + width + 1]
        out = out[:, : self._size]
        for offset in range(1, width + 1):
            out[offset, max(self._size - offset, 0) :] = 0.0
        return out
