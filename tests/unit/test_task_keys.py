"""Names of tasks that cover a box: made and read by one module."""

import pytest

from ssem_dask.task import box_name, box_start


def test_a_name_says_where_its_box_starts() -> None:
    assert box_name((8, 512, 0)) == "z000008-y0000512-x0000000"
    assert box_start(f"register/{box_name((8, 512, 0))}") == (8, 512, 0)
    assert box_start(f"downsample/{box_name((8, 512, 64), mip=3)}") == (8, 512, 64)
    assert box_start(f"render/{box_name((1_234_567, 12_345_678, 1))}") == (1_234_567, 12_345_678, 1)


@pytest.mark.parametrize(
    "key", ["compose/fit", "measure/z000008", "calibrate/window-3", "compose/sections-00001-y1-x1"]
)
def test_other_keys_have_no_start(key: str) -> None:
    assert box_start(key) is None
