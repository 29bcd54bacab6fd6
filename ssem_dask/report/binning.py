"""Binning along z and over windows, so that a page does not grow with the volume; each bin shows its worst value."""

import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NO_TISSUE, NOT_DONE
from ssem_dask.types import AnyArray, Float32Array, Float64Array

BadEnd: TypeAlias = Literal["low", "high"]
"""Whether low or high values are the bad ones; in a bin of several, the worst is kept."""

MAX_COLUMNS = 4096
"""Largest number of columns along z."""
MAX_ROWS = 128
"""Largest number of rows of a heat map."""
LEVELS = 64
"""Number of levels of a heat map's values; the codes above them are UNKNOWN_CODE … FAILED_CODE."""
UNKNOWN_CODE, NOT_DONE_CODE, NO_TISSUE_CODE, LOW_QUALITY_CODE, FAILED_CODE = range(LEVELS, LEVELS + 5)

# Ranks from harmless to bad: no value, not done, no tissue, then the levels of values, low quality, failed.
_NO_VALUE_RANK, _NOT_DONE_RANK, _NO_TISSUE_RANK, _FIRST_LEVEL_RANK = range(4)
_LOW_QUALITY_RANK, _FAILED_RANK = _FIRST_LEVEL_RANK + LEVELS, _FIRST_LEVEL_RANK + LEVELS + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedMap:
    """Levels and codes of windows, binned."""

    image: NDArray[np.uint8]
    """(row, column): rows are windows and columns are sections."""
    windows_per_row: int
    sections_per_column: int


def bin_size(count: int, *, limit: int) -> int:
    """Return how many values become one, so that at most `limit` remain."""
    return max(1, ceil_div(count, limit))


def keep_worst(values: AnyArray, *, size: int, bad: BadEnd) -> Float64Array:
    """Return the worst of each `size` values (z,); NaN if all of them are unknown."""
    padded = np.full(ceil_div(len(values), size) * size, np.nan)
    padded[: len(values)] = values
    bins = padded.reshape(-1, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN bins are NaN
        return np.asarray(np.nanmin(bins, axis=1) if bad == "low" else np.nanmax(bins, axis=1))


def bin_map(values: Float32Array, codes: NDArray[np.uint8], *, low: float, high: float, bad: BadEnd) -> BinnedMap:
    """Return levels and codes of windows, for a picture.

    Args:
        values: (z, window); NaN is unknown.
        codes: (z, window), see `ledger_summary`; a failed or low-quality window shows its code, not its value.
        low: value of level 0.
        high: value of the highest level.
        bad: the bad end of the values.
    """
    level = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (LEVELS - 1)
    known = np.isfinite(level)
    level = np.where(known, level, 0).round().astype(np.int16)
    badness = (LEVELS - 1 - level) if bad == "low" else level
    rank = np.where(known, _FIRST_LEVEL_RANK + badness, _NO_VALUE_RANK).astype(np.int16)
    rank[(codes == NOT_DONE) & ~known] = _NOT_DONE_RANK
    rank[(codes == NO_TISSUE) & ~known] = _NO_TISSUE_RANK
    rank[codes == LOW_QUALITY] = _LOW_QUALITY_RANK
    rank[codes == FAILED] = _FAILED_RANK
    windows, sections = bin_size(rank.shape[1], limit=MAX_ROWS), bin_size(rank.shape[0], limit=MAX_COLUMNS)
    columns, rows = ceil_div(rank.shape[0], sections), ceil_div(rank.shape[1], windows)
    padded = np.zeros((columns * sections, rows * windows), dtype=np.int16)
    padded[: rank.shape[0], : rank.shape[1]] = rank
    worst = padded.reshape(columns, sections, rows, windows).max(axis=(1, 3)).T
    return BinnedMap(image=_shown_values(bad)[worst], windows_per_row=windows, sections_per_column=sections)


def _shown_values(bad: BadEnd) -> NDArray[np.uint8]:
    """Return the level or code of each rank."""
    table = np.zeros(_FAILED_RANK + 1, dtype=np.uint8)
    levels = np.arange(LEVELS)
    table[_NO_VALUE_RANK], table[_NOT_DONE_RANK], table[_NO_TISSUE_RANK] = UNKNOWN_CODE, NOT_DONE_CODE, NO_TISSUE_CODE
    table[_FIRST_LEVEL_RANK:_LOW_QUALITY_RANK] = LEVELS - 1 - levels if bad == "low" else levels
    table[_LOW_QUALITY_RANK], table[_FAILED_RANK] = LOW_QUALITY_CODE, FAILED_CODE
    return table
