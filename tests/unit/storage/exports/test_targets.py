"""A task of an export writes whole files, of bounded size."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ssem_dask.errors import OutputError
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.storage.exports.precomputed import PrecomputedTarget
from ssem_dask.storage.exports.target import UNIT_BYTES, grown
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import ShapeZYX

needs_tensorstore = pytest.mark.skipif(importlib.util.find_spec("tensorstore") is None, reason="needs tensorstore")


@pytest.mark.parametrize(
    ("chunk", "shape"),
    [
        ((1, 512, 512), (1000, 30000, 30000)),
        ((8, 256, 256), (8, 300, 30000)),
        ((64, 64, 64), (2000, 64, 64)),
        ((1, 5000, 5000), (10, 5000, 5000)),
    ],
)
def test_tasks_are_whole_chunks_of_bounded_size(chunk: ShapeZYX, shape: ShapeZYX) -> None:
    dtype = np.dtype("uint16")
    unit = grown(chunk, shape=shape, dtype=dtype, depth=8)
    assert all(u % c == 0 for u, c in zip(unit, chunk, strict=True))
    size = np.prod(unit) * dtype.itemsize
    assert size <= UNIT_BYTES or unit == chunk
    assert size > UNIT_BYTES // 2 or all(u >= n for u, n in zip(unit, shape, strict=True))


@needs_tensorstore
@pytest.mark.parametrize("shape", [(100, 7000, 9000), (3000, 3000, 3000), (20, 50, 60), (1000, 64, 64)])
def test_shards_tile_the_volume_in_bounded_size(shape: ShapeZYX) -> None:
    info = VolumeInfo(shape=shape, dtype=np.dtype("uint16"), pixel_size=4.0, section_thickness=40.0)
    place = PrecomputedTarget(
        url="/nowhere", info=info, mips=2, chunk=(64, 64, 64), depth=8, labels=False, sharded=True
    )
    for mip in range(2):
        boxes = list(chunk_boxes(place.shape_at(mip), chunk=place.unit(mip), mip=mip))
        assert max(box.size for box in boxes) * 2 <= UNIT_BYTES
        assert len(boxes) <= 4 * (np.prod(shape) * 2 / UNIT_BYTES + 1)


@needs_tensorstore
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    info = VolumeInfo(shape=(13, 150, 131), dtype=np.dtype("uint8"), pixel_size=4.0, section_thickness=40.0)
    place = PrecomputedTarget(
        url=str(tmp_path / "file" / "x"), info=info, mips=1, chunk=(64, 64, 64), depth=1, labels=False, sharded=False
    )
    with pytest.raises(OutputError, match="file/x: cannot be written"):
        place.write(np.zeros((13, 64, 64), "uint8"), start=(0, 0, 0), mip=0)
