"""Fewer columns along z than sections, so that a page does not grow with the volume; the worst of each bin is shown."""

import warnings

import numpy as np
from numpy.typing import NDArray

from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NO_TISSUE, NOT_DONE
from ssem_dask.types import AnyArray, Float32Array, Float64Array

COLUMNS = 4096
"""Most columns along z."""
ROWS = 128
"""Most rows of a heat map."""
LEVELS = 64
"""Levels of a heat map's values; the codes above them are UNKNOWN … BROKEN."""
UNKNOWN, UNDONE, EMPTY, POOR, BROKEN = range(LEVELS, LEVELS + 5)


def bin_size(count: int, *, most: int) -> int:
    """How many become one, so that at most `most` are left."""
    return max(1, -(-count // most))


def worst_of(values: AnyArray, *, size: int, bad: str) -> Float64Array:
    """Of each `size` values (z,) the lowest (`bad` = "low") or the highest ("high"), NaN where none is known."""
    padded = np.full(-(-len(values) // size) * size, np.nan)
    padded[: len(values)] = values
    bins = padded.reshape(-1, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN bins are NaN
        return np.asarray(np.nanmin(bins, axis=1) if bad == "low" else np.nanmax(bins, axis=1))


def heat_map(
    values: Float32Array, codes: NDArray[np.uint8], *, low: float, high: float, bad: str
) -> tuple[NDArray[np.uint8], int, int]:
    """Levels and codes of windows, for a picture.

    Args:
        values: (z, window); NaN is unknown.
        codes: (z, window), see `ended`; a failed or poor window shows its code, not its value.
        low: value of level 0.
        high: value of the highest level.
        bad: which end is bad, "low" or "high"; it wins where several windows become one.

    Returns:
        (row, column) uint8, rows are windows and columns sections; and how many windows and sections one stands for.
    """
    level = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (LEVELS - 1)
    known = np.isfinite(level)
    level = np.where(known, level, 0).round().astype(np.int16)
    goodness = (LEVELS - 1 - level) if bad == "low" else level
    badness = np.where(known, 3 + goodness, 0).astype(np.int16)
    badness[(codes == NOT_DONE) & ~known] = 1
    badness[(codes == NO_TISSUE) & ~known] = 2
    badness[codes == LOW_QUALITY] = 3 + LEVELS
    badness[codes == FAILED] = 4 + LEVELS
    down, along = bin_size(badness.shape[1], most=ROWS), bin_size(badness.shape[0], most=COLUMNS)
    columns, rows = -(-badness.shape[0] // along), -(-badness.shape[1] // down)
    padded = np.zeros((columns * along, rows * down), dtype=np.int16)
    padded[: badness.shape[0], : badness.shape[1]] = badness
    worst = padded.reshape(columns, along, rows, down).max(axis=(1, 3)).T
    table = np.zeros(5 + LEVELS, dtype=np.uint8)
    table[0], table[1], table[2] = UNKNOWN, UNDONE, EMPTY
    levels = np.arange(LEVELS)
    table[3 : 3 + LEVELS] = LEVELS - 1 - levels if bad == "low" else levels
    table[3 + LEVELS], table[4 + LEVELS] = POOR, BROKEN
    return table[worst], down, along
