"""Similarity of the images of two sections: report it, never rank by it alone.

If neighbours are made more similar than tissue is, the value exceeds that of undeformed sections (over-alignment).
"""

import math

import numpy as np

from ssem_dask.types import AnyArray, BoolArray, Float64Array

_LEAST_VALID = 0.5  # share of a square that must be valid
_LEAST_VARIANCE = 1e-6  # below it an image counts as constant
_BATCH_PIXELS = 1 << 15  # pixels per batch, so that their float64 copies stay in the caches


def normalised_correlation(first: AnyArray, second: AnyArray, *, valid: BoolArray) -> float:
    """Compute the normalised cross-correlation (Pearson's r) of two images (y, x) over the valid pixels.

    It is NaN if there are fewer than two of them or an image is constant there.
    """
    known = np.count_nonzero(valid)
    if known < 2:
        return math.nan
    parts = []
    step = max(1, _BATCH_PIXELS // first.shape[1])
    for y in range(0, first.shape[0], step):
        rows = slice(y, y + step)
        chosen = slice(None) if known == valid.size else valid[rows]
        a, b = (image[rows][chosen].ravel().astype(np.float64) for image in (first, second))
        if a.size:
            means = a.mean(), b.mean()
            a -= means[0]
            b -= means[1]
            parts.append((a.size, *means, a @ a, b @ b, a @ b))
    # Each part was centred by its own means; the offsets of these from the overall means are added (Chan et al. 1983).
    count, mean_a, mean_b, *products = np.array(parts).T
    off_a, off_b = mean_a - count @ mean_a / known, mean_b - count @ mean_b / known
    pairs = (off_a, off_a), (off_b, off_b), (off_a, off_b)
    a_a, b_b, a_b = (float(p.sum() + count @ (u * v)) / known for p, (u, v) in zip(products, pairs, strict=True))
    power = a_a * b_b
    return a_b / math.sqrt(power) if power > _LEAST_VARIANCE**2 else math.nan


def chunked_correlation(first: AnyArray, second: AnyArray, *, valid: BoolArray, side: int) -> float:
    """Compute the chunked Pearson correlation: the mean of r over squares of `side` px that tile the images (y, x).

    A square counts if at least half of it is valid and neither image is constant in it. The result is NaN if none
    counts, also because the images are smaller than one square.
    """
    columns, pixels = first.shape[1] // side, side * side
    if first.shape[0] < side or columns == 0:
        return math.nan
    ones, rows = np.ones(pixels), []
    for y in range(0, first.shape[0] - side + 1, side):  # one row of squares at a time, which fits the caches
        known = _squares(valid, y, side=side)
        a, b = (_squares(image, y, side=side).astype(np.float64) for image in (first, second))
        full = bool(known.all())
        count = np.full(columns, pixels) if full else np.count_nonzero(known, axis=1)
        safe = np.maximum(count, 1)
        for values in (a, b):
            if not full:
                values *= known
            values -= (values @ ones / safe)[:, None]
            if not full:
                values *= known
        power_a, power_b, covariance = (_dots(u, v) / safe for u, v in ((a, a), (b, b), (a, b)))
        usable = (count >= _LEAST_VALID * pixels) & (power_a > _LEAST_VARIANCE) & (power_b > _LEAST_VARIANCE)
        rows.append(covariance[usable] / np.sqrt(power_a[usable] * power_b[usable]))
    correlations = np.concatenate(rows)
    return float(correlations.mean()) if correlations.size else math.nan


def _squares(image: AnyArray, y: int, *, side: int) -> AnyArray:
    """Cut the row of squares from pixel row `y` on: `(n, pixels)`."""
    columns = image.shape[1] // side
    cut = image[y : y + side, : columns * side].reshape(side, columns, side)
    return np.asarray(cut.swapaxes(0, 1).reshape(columns, side * side))


def _dots(first: Float64Array, second: Float64Array) -> Float64Array:
    """Compute the dot product of each row with its counterpart."""
    return np.asarray((first[:, None, :] @ second[:, :, None])[:, 0, 0])
