"""How large register's windows are where nobody says so."""

from pathlib import Path

import numpy as np
import pytest

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.stages.register import windows
from ssem_dask.storage.volume import VolumeInfo, create_volume


@pytest.mark.parametrize(
    ("pixel_size", "shape", "side", "count"),
    [
        (5.0, (1000, 300, 400), 1024, 125),
        (5.0, (1000, 4095, 1000), 1024, 500),
        (5.0, (1000, 1000, 4096), 2048, 250),
        (2.5, (96, 8192, 8192), 4096, 48),  # px of mip 0; the working pixel is 5 nm
        (2.5, (88, 8192, 8192), 2048, 176),  # 44 wide ones are too few
        (2.5, (1000, 4096, 4096), 2048, 500),
    ],
)
def test_wide_sections_have_wide_windows_where_these_are_many(
    tmp_path: Path, pixel_size: float, shape: tuple[int, int, int], side: int, count: int
) -> None:
    source = str(tmp_path / "source.zarr")
    info = VolumeInfo(shape=shape, dtype=np.dtype("uint8"), pixel_size=pixel_size, section_thickness=40.0)
    create_volume(source, info=info, chunk=(8, 512, 512), shard=(8, 512, 512), mips=1)
    job = plan(make_config({"source": source, "output": str(tmp_path / "out.zarr")})).job
    assert job.register.window == side
    assert len(list(windows(job))) == count
