"""Thinning shows the worst: a single bad window is never averaged away."""

import numpy as np

from ssem_dask.report.binning import (
    BROKEN,
    COLUMNS,
    EMPTY,
    LEVELS,
    POOR,
    ROWS,
    UNDONE,
    UNKNOWN,
    bin_size,
    heat_map,
    worst_of,
)
from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NO_TISSUE, NOT_DONE, OK


def test_a_small_map_keeps_every_window() -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan], [np.nan, 0.3], [np.nan, 0.2]], dtype=np.float32)
    codes = np.array([[OK, OK], [OK, NO_TISSUE], [NOT_DONE, FAILED], [OK, LOW_QUALITY]], dtype=np.uint8)
    image, windows, sections = heat_map(values, codes, low=0.0, high=1.0, bad="low")
    assert (windows, sections) == (1, 1)
    np.testing.assert_array_equal(
        image, [[0, LEVELS - 1, UNDONE, UNKNOWN], [round((LEVELS - 1) / 2), EMPTY, BROKEN, POOR]]
    )


def test_a_failed_window_shows_in_the_largest_map() -> None:
    values = np.full((3 * COLUMNS + 1, 2 * ROWS + 1), 0.9, dtype=np.float32)
    codes = np.full(values.shape, OK, dtype=np.uint8)
    codes[5000, 100] = FAILED
    values[7000, 3] = 0.1
    image, windows, sections = heat_map(values, codes, low=0.0, high=1.0, bad="low")
    assert image.shape[0] <= ROWS
    assert image.shape[1] <= COLUMNS
    assert image[100 // windows, 5000 // sections] == BROKEN
    assert image[3 // windows, 7000 // sections] == round(0.1 * (LEVELS - 1))
    assert (image == BROKEN).sum() == 1


def test_where_large_is_bad_the_largest_is_kept() -> None:
    values = np.zeros((2 * COLUMNS, 1), dtype=np.float32)
    values[10] = 1.0
    image, _, _ = heat_map(values, np.full(values.shape, OK, np.uint8), low=0.0, high=1.0, bad="high")
    assert image[0, 5] == LEVELS - 1


def test_the_worst_of_a_bin() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan, 7.0])
    np.testing.assert_array_equal(worst_of(values, size=3, bad="low"), [1.0, np.nan, 7.0])
    np.testing.assert_array_equal(worst_of(values, size=3, bad="high"), [3.0, np.nan, 7.0])
    assert bin_size(4096, most=4096) == 1
    assert bin_size(4097, most=4096) == 2
