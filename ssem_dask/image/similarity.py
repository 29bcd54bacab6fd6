"""Similarity of the images of two sections: report it, never rank by it alone.

Matching neighbours better than tissue does raises similarity beyond that of undeformed sections (over-alignment).
"""

import math

import numpy as np

from ssem_dask.types import AnyArray, BoolArray, Float64Array

_FILLED = 0.5  # share of a chunk that must be valid
_FLAT = 1e-6  # variance below which an image is constant
_CACHED_PIXELS = 1 << 15  # pixels that are looked at at once, so that their float64 copies stay in the caches


def normalised_correlation(first: AnyArray, second: AnyArray, *, valid: BoolArray) -> float:
    """Normalised cross-correlation (Pearson's r) of two images (y, x) over the valid pixels.

    NaN if there are fewer than two of them or an image is constant there.
    """
    known = np.count_nonzero(valid)
    if known < 2:
        return math.nan
    parts = []
    step = max(1, _CACHED_PIXELS // first.shape[1])
    for y in range(0, first.shape[0], step):
        rows = slice(y, y + step)
        chosen = slice(None) if known == valid.size else valid[rows]
        a, b = (image[rows][chosen].ravel().astype(np.float64) for image in (first, second))
        if a.size:
            means = a.mean(), b.mean()
            a -= means[0]
            b -= means[1]
            parts.append((a.size, *means, a @ a, b @ b, a @ b))
    # Each part was centred by its own means; what these differ from the means of all comes on top.
    count, mean_a, mean_b, *products = np.array(parts).T
    off_a, off_b = mean_a - count @ mean_a / known, mean_b - count @ mean_b / known
    pairs = (off_a, off_a), (off_b, off_b), (off_a, off_b)
    a_a, b_b, a_b = (float(p.sum() + count @ (u * v)) / known for p, (u, v) in zip(products, pairs, strict=True))
    power = a_a * b_b
    return a_b / math.sqrt(power) if power > _FLAT**2 else math.nan


def chunked_correlation(first: AnyArray, second: AnyArray, *, valid: BoolArray, side: int) -> float:
    """Chunked Pearson correlation: the mean of r over squares of `side` px that tile the images (y, x).

    A square counts where at least half of it is valid and neither image is constant in it. NaN if none counts, also
    because the images are smaller than one square.
    """
    columns, pixels = first.shape[1] // side, side * side
    if first.shape[0] < side or columns == 0:
        return math.nan
    ones, found = np.ones(pixels), []
    for y in range(0, first.shape[0] - side + 1, side):  # a row of squares at a time, which the caches hold
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
        usable = (count >= _FILLED * pixels) & (power_a > _FLAT) & (power_b > _FLAT)
        found.append(covariance[usable] / np.sqrt(power_a[usable] * power_b[usable]))
    correlations = np.concatenate(found)
    return float(correlations.mean()) if correlations.size else math.nan


def _squares(image: AnyArray, y: int, *, side: int) -> AnyArray:
    """The squares `(n, pixels)` side by side from row `y` on."""
    columns = image.shape[1] // side
    cut = image[y : y + side, : columns * side].reshape(side, columns, side)
    return np.asarray(cut.swapaxes(0, 1).reshape(columns, side * side))


def _dots(first: Float64Array, second: Float64Array) -> Float64Array:
    """The product of each row with its counterpart."""
    return np.asarray((first[:, None, :] @ second[:, :, None])[:, 0, 0])
