"""Entries near the diagonal of the inverse of a banded matrix, without the others.

Law: what is returned equals the band of the dense inverse. The cost is linear in the size of the matrix.

Source: Takahashi, Fagan & Chin 1973; Rue & Held, Gaussian Markov Random Fields, 2005, §2.4.5.
"""

import numpy as np

from ssem_dask.types import Float64Array


def inverse_band(factor: Float64Array, *, width: int) -> Float64Array:
    """The band of A⁻¹, lower: `[o, j]` is the entry of row j + o and column j.

    Args:
        factor: L of A = L Lᵀ `(bands + 1, n)`, lower banded, as of `scipy.linalg.cholesky_banded`.
        width: sub-diagonals wanted; may be more than A has.

    Returns:
        `(width + 1, n)`; 0 where row j + o does not exist.
    """
    bands, size = len(factor) - 1, factor.shape[1]
    reach = max(width, bands)
    below = np.zeros((reach, size))
    below[:bands] = factor[1:]
    for offset in range(bands):  # what lies beyond the last row is no part of L
        below[offset, size - offset - 1 :] = 0.0
    below /= factor[0]
    pivots = 1.0 / factor[0] ** 2
    near = np.zeros((reach + 1, reach + 1))
    """A⁻¹ among rows j … j + reach."""
    out = np.zeros((width + 1, size))
    for j in range(size - 1, -1, -1):
        near[1:, 1:] = near[:-1, :-1].copy()
        column = -near[1:, 1:] @ below[:, j]
        near[1:, 0] = near[0, 1:] = column
        near[0, 0] = pivots[j] - below[:, j] @ column
        out[:, j] = near[: width + 1, 0]
    for offset in range(1, width + 1):
        out[offset, max(size - offset, 0) :] = 0.0
    return out
