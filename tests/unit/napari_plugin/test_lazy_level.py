"""A lazy level is indexed as the array that it stands for, and reads what it returns."""

from typing import Any

import numpy as np
import pytest

from ssem_dask.geometry.box import Box
from ssem_dask.napari_plugin.lazy_level import LazyLevel

PIXELS = np.arange(3 * 5 * 7, dtype=np.uint16).reshape(3, 5, 7)


@pytest.mark.parametrize(
    "index",
    [
        1,
        -1,
        np.int64(2),
        (0, slice(1, 4), slice(2, 7)),
        (slice(None), 2, slice(None)),
        (slice(1, 3), slice(None, None, 2), -1),
        (..., 3),
        (slice(2, 2),),
        slice(None),
        (),
        (0, 4, 6),
    ],
    ids=str,
)
def test_it_is_indexed_as_an_array(index: Any) -> None:
    boxes: list[Box] = []

    def read(box: Box) -> Any:
        boxes.append(box)
        return PIXELS[box.slices][0]

    level = LazyLevel((3, 5, 7), PIXELS.dtype, mip=2, read=read)
    found = level[index]
    wanted = np.asarray(PIXELS[index])
    np.testing.assert_array_equal(found, wanted)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert all(box.mip == 2 and box.shape[0] == 1 for box in boxes)
    if isinstance(index, tuple) and index and isinstance(index[0], int):
        assert len(boxes) == 1


def test_all_of_it_is_an_array() -> None:
    level = LazyLevel((3, 5, 7), PIXELS.dtype, mip=0, read=lambda box: PIXELS[box.slices][0])
    np.testing.assert_array_equal(np.asarray(level), PIXELS)
    assert (level.ndim, level.size) == (3, PIXELS.size)


@pytest.mark.parametrize("index", [3, (0, 0, 7), (slice(None, None, -1),)], ids=str)
def test_what_it_cannot_read_is_refused(index: Any) -> None:
    level = LazyLevel((3, 5, 7), PIXELS.dtype, mip=0, read=lambda box: PIXELS[box.slices][0])
    with pytest.raises(IndexError):
        level[index]
