"""Similarity of aligned sections, as a whole and block by block.

A sound section resembles each neighbour more than its two neighbours resemble each other, since it is nearer to them.
Where it resembles both less, something of it is missing, displaced or covered. Its neighbours are not blamed: each
still resembles the neighbour on its other side.
"""

import math

import numpy as np
from jaxtyping import Float

from ssem_dask.image.similarity import normalised_correlation
from ssem_dask.types import AnyArray, BoolArray, Float64Array

BLOCKS = 6
"""Blocks along each side of a section."""
LIKENESS_MARGIN = 0.12
"""Correlation by which a block must be less similar to both neighbours than these are to each other."""
_LEAST_VALID = 0.5
"""Share of a block that must be valid."""


def likeness(first: AnyArray, second: AnyArray, *, valid: BoolArray) -> float:
    """Return the correlation of two images (y, x) over the valid pixels; NaN if these are less than 2 %."""
    return normalised_correlation(first, second, valid=valid) if valid.mean() > 0.02 else math.nan


def block_likeness(first: AnyArray, second: AnyArray, *, valid: BoolArray) -> Float[Float64Array, "b b"]:
    """Return the correlation of two images (y, x) in each of `BLOCKS` × `BLOCKS` blocks; NaN is unknown."""
    rows, columns = (np.linspace(0, n, BLOCKS + 1).astype(int) for n in first.shape)
    out = np.full((BLOCKS, BLOCKS), np.nan)
    for i in range(BLOCKS):
        for j in range(BLOCKS):
            block = slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1])
            if valid[block].size and valid[block].mean() >= _LEAST_VALID:
                out[i, j] = normalised_correlation(first[block], second[block], valid=valid[block])
    return out


def unlike_share(before: Float64Array, after: Float64Array, across: Float64Array) -> float:
    """Return the share of blocks in which a section is unlike both neighbours; NaN if nothing is known.

    Args:
        before: likeness of the section and the one before, by block.
        after: that of the section and the one after.
        across: that of its two neighbours.
    """
    deficit = across - np.fmax(before, after)
    known = np.isfinite(deficit)
    return float((deficit[known] > LIKENESS_MARGIN).mean()) if known.any() else math.nan
