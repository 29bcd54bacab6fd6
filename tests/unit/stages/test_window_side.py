"""How large register's windows are where nobody says so."""

from pathlib import Path

import numpy as np
import pytest

from ssem_dask.config import make_config
from ssem_dask.pipeline import plan
from ssem_dask.stages.register import windows
from ssem_dask.storage.volume import VolumeInfo, create_volume


@pytest.mark.parametrize(
    ("pixel_size", "shape_yx", "side", "count"),
    [
        (5.0, (300, 400), 1024, 1),
        (5.0, (4095, 1000), 1024, 4),
        (5.0, (1000, 4096), 2048, 2),
        (2.5, (8192, 8192), 4096, 4),  # px of mip 0; the working pixel is 5 nm
        (2.5, (4096, 4096), 2048, 4),
    ],
)
def test_wide_sections_have_wide_windows(
    tmp_path: Path, pixel_size: float, shape_yx: tuple[int, int], side: int, count: int
) -> None:
    source = str(tmp_path / "source.zarr")
    info = VolumeInfo(shape=(8, *shape_yx), dtype=np.dtype("uint8"), pixel_size=pixel_size, section_thickness=40.0)
    create_volume(source, info=info, chunk=(8, 512, 512), shard=(8, 512, 512), mips=1)
    job = plan(make_config({"source": source, "output": str(tmp_path / "out.zarr")})).job
    assert job.register.window == side
    assert len(list(windows(job))) == count
