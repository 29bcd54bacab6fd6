"""Thinning shows the worst: a single bad window is never averaged away."""

import numpy as np

from ssem_dask.report.binning import (
    FAILED_CODE,
    LEVELS,
    LOW_QUALITY_CODE,
    MAX_COLUMNS,
    MAX_ROWS,
    NO_TISSUE_CODE,
    NOT_DONE_CODE,
    UNKNOWN_CODE,
    bin_map,
    bin_size,
    keep_worst,
)
from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NO_TISSUE, NOT_DONE, OK


def test_a_small_map_keeps_every_window() -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan], [np.nan, 0.3], [np.nan, 0.2]], dtype=np.float32)
    codes = np.array([[OK, OK], [OK, NO_TISSUE], [NOT_DONE, FAILED], [OK, LOW_QUALITY]], dtype=np.uint8)
    binned = bin_map(values, codes, low=0.0, high=1.0, bad="low")
    assert (binned.windows_per_row, binned.sections_per_column) == (1, 1)
    np.testing.assert_array_equal(
        binned.image,
        [
            [0, LEVELS - 1, NOT_DONE_CODE, UNKNOWN_CODE],
            [round((LEVELS - 1) / 2), NO_TISSUE_CODE, FAILED_CODE, LOW_QUALITY_CODE],
        ],
    )


def test_a_failed_window_shows_in_the_largest_map() -> None:
    values = np.full((3 * MAX_COLUMNS + 1, 2 * MAX_ROWS + 1), 0.9, dtype=np.float32)
    codes = np.full(values.shape, OK, dtype=np.uint8)
    codes[5000, 100] = FAILED
    values[7000, 3] = 0.1
    binned = bin_map(values, codes, low=0.0, high=1.0, bad="low")
    assert binned.image.shape[0] <= MAX_ROWS
    assert binned.image.shape[1] <= MAX_COLUMNS
    assert binned.image[100 // binned.windows_per_row, 5000 // binned.sections_per_column] == FAILED_CODE
    assert binned.image[3 // binned.windows_per_row, 7000 // binned.sections_per_column] == round(0.1 * (LEVELS - 1))
    assert (binned.image == FAILED_CODE).sum() == 1


def test_where_large_is_bad_the_largest_is_kept() -> None:
    values = np.zeros((2 * MAX_COLUMNS, 1), dtype=np.float32)
    values[10] = 1.0
    binned = bin_map(values, np.full(values.shape, OK, np.uint8), low=0.0, high=1.0, bad="high")
    assert binned.image[0, 5] == LEVELS - 1


def test_the_worst_of_a_bin() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan, 7.0])
    np.testing.assert_array_equal(keep_worst(values, size=3, bad="low"), [1.0, np.nan, 7.0])
    np.testing.assert_array_equal(keep_worst(values, size=3, bad="high"), [3.0, np.nan, 7.0])
    assert bin_size(4096, limit=4096) == 1
    assert bin_size(4097, limit=4096) == 2
