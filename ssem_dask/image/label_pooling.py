"""Pooling of ids of a segmentation to coarser mips: the most frequent one, never a mixture."""

import numpy as np

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import AnyArray

_ROWS = 32
"""Rows of a pooled section of ids that are computed at once, so that intermediate values stay in the caches."""


def halve_labels(ids: AnyArray) -> AnyArray:
    """Apply `pool_labels` to each section `(z, y, x)`."""
    z, y, x = ids.shape
    out = np.empty((z, ceil_div(y, 2), ceil_div(x, 2)), dtype=ids.dtype)
    for section, halved in zip(ids, out, strict=True):
        for first in range(0, len(halved), _ROWS):
            halved[first : first + _ROWS] = pool_labels(section[2 * first : 2 * (first + _ROWS)])
    return out


def pool_labels(ids: AnyArray) -> AnyArray:
    """Return the most frequent id of each 2 × 2 square.

    If ids are equally frequent, the largest is taken, so that thin processes do not lose against the background 0.

    Args:
        ids: `(y, x)`, any integer type; an odd last row or column counts twice.

    Returns:
        `(ceil(y / 2), ceil(x / 2))`.
    """
    padded = np.pad(ids, [(0, n % 2) for n in ids.shape], mode="edge")
    # The four sorted by exchanges of whole arrays, several times as fast as np.sort.
    a, b = _sorted(padded[0::2, 0::2], padded[0::2, 1::2])
    c, d = _sorted(padded[1::2, 0::2], padded[1::2, 1::2])
    a, c = _sorted(a, c)
    b, d = _sorted(b, d)
    b, c = _sorted(b, c)
    pair = np.where(b == c, b, np.where(a == b, a, d))
    most: AnyArray = np.where(c == d, d, pair)
    return most


def _sorted(a: AnyArray, b: AnyArray) -> tuple[AnyArray, AnyArray]:
    return np.minimum(a, b), np.maximum(a, b)
