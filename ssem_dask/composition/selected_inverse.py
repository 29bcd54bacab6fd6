"""Entries near the diagonal of the inverse of a banded matrix, without the others.

Law: what is returned equals the band of the dense inverse. The cost is linear in the size of the matrix.

Source: Takahashi, Fagan & Chin 1973, by blocks as wide as the band; Rue & Held, Gaussian Markov Random Fields, 2005,
§2.4.5.
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
    side = max(width, bands, 1)
    count = -(-size // side)
    diagonal, below = _blocks(factor, side=side, count=count)
    inverse = np.linalg.inv(diagonal)
    handed = below @ inverse[:-1]
    near = inverse.transpose(0, 2, 1) @ inverse
    for j in range(count - 2, -1, -1):  # A⁻¹ among the rows of block j, from that of block j + 1
        near[j] += handed[j].T @ near[j + 1] @ handed[j]
    columns = np.zeros((count, 2 * side, side))
    columns[:, :side] = near
    columns[:-1, side:] = -near[1:] @ handed
    column = np.arange(side)
    out = np.stack([columns[:, column + o, column].reshape(-1)[:size] for o in range(width + 1)])
    for offset in range(1, width + 1):
        out[offset, max(size - offset, 0) :] = 0.0
    return out


def _blocks(factor: Float64Array, *, side: int, count: int) -> tuple[Float64Array, Float64Array]:
    """L in blocks: those on the diagonal `(count, side, side)`, and those below it `(count - 1, side, side)`."""
    size = factor.shape[1]
    padded = np.zeros((len(factor), count * side))
    padded[0] = 1.0
    padded[:, :size] = factor
    for offset in range(1, len(factor)):  # what lies beyond the last row is no part of L
        padded[offset, max(size - offset, 0) : size] = 0.0
    banded = padded.reshape(len(factor), count, side)
    both = np.zeros((count, 2 * side, side))
    column = np.arange(side)
    for offset, entries in enumerate(banded):
        both[:, column + offset, column] = entries
    return both[:, :side], both[:-1, side:]
