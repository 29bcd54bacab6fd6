"""Similarity of the images of two sections: report it, never rank by it alone.

Matching neighbours better than tissue does raises similarity beyond that of undeformed sections (over-alignment).
"""

import math

import numpy as np

from ssem_dask.types import AnyArray, BoolArray

_FILLED = 0.5  # share of a chunk that must be valid
_FLAT = 1e-6  # variance below which an image is constant


def normalised_correlation(first: AnyArray, second: AnyArray, *, valid: BoolArray) -> float:
    """Normalised cross-correlation (Pearson's r) of two images (y, x) over the valid pixels.

    NaN if there are fewer than two of them or an image is constant there.
    """
    if np.count_nonzero(valid) < 2:
        return math.nan
    a, b = first[valid].astype(np.float64), second[valid].astype(np.float64)
    a -= a.mean()
    b -= b.mean()
    power = float((a * a).mean()) * float((b * b).mean())
    return float((a * b).mean()) / math.sqrt(power) if power > _FLAT**2 else math.nan


def chunked_correlation(first: AnyArray, second: AnyArray, *, valid: BoolArray, side: int) -> float:
    """Chunked Pearson correlation: the mean of r over squares of `side` px that tile the images (y, x).

    A square counts where at least half of it is valid and neither image is constant in it. NaN if none counts, also
    because the images are smaller than one square.
    """
    rows, columns = first.shape[0] // side, first.shape[1] // side
    if rows == 0 or columns == 0:
        return math.nan
    weight = _squares(valid, rows=rows, columns=columns, side=side).astype(np.float64)
    a = _squares(first, rows=rows, columns=columns, side=side).astype(np.float64)
    b = _squares(second, rows=rows, columns=columns, side=side).astype(np.float64)
    count = weight.sum(axis=-1)
    safe = np.maximum(count, 1.0)
    a = (a - ((a * weight).sum(axis=-1) / safe)[:, None]) * weight
    b = (b - ((b * weight).sum(axis=-1) / safe)[:, None]) * weight
    power_a, power_b = (a * a).sum(axis=-1) / safe, (b * b).sum(axis=-1) / safe
    usable = (count >= _FILLED * side * side) & (power_a > _FLAT) & (power_b > _FLAT)
    if not usable.any():
        return math.nan
    covariance = (a * b).sum(axis=-1) / safe
    return float((covariance[usable] / np.sqrt(power_a[usable] * power_b[usable])).mean())


def _squares(image: AnyArray, *, rows: int, columns: int, side: int) -> AnyArray:
    """Squares (n, pixels)."""
    cut = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return np.asarray(cut.transpose(0, 2, 1, 3).reshape(rows * columns, side * side))
