"""How large register's windows are where nobody says so, and what a window says of itself."""

from pathlib import Path

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.geometry.box import Box
from ssem_dask.registration.coarse_alignment.order import OrderCheck
from ssem_dask.section_record import Kind
from ssem_dask.stages import coarse
from ssem_dask.stages.register import windows
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from tests.support.runs import SMALL


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


def test_windows_of_which_every_second_section_is_blank_are_registered(observed: str, tmp_path: Path) -> None:
    original = Volume.open(observed)
    values = original.read(Box((0, 0, 0), original.info.shape))
    values[1::2] = 0
    source = create_volume(
        str(tmp_path / "source.zarr"), info=original.info, chunk=(1, 64, 64), shard=(1, 192, 192), mips=1
    )
    source.write(Box((0, 0, 0), values.shape), values)
    output = str(tmp_path / "out.zarr")
    summary = package.align(source.url, output, cluster="serial", **SMALL)
    assert not [remark.message for remark in summary.remarks if remark.key.startswith("register")]
    fields, _ = open_field(join(output, "fields", "pairs"))
    known = np.isfinite(np.asarray(fields[:])).any(axis=(2, 3, 4))
    assert known[1, 2::2].all()
    assert not known[0].any()


def test_a_repeated_image_is_not_registered(observed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Sections of so few pixels are too little alike for a repeated image to stand out.
    monkeypatch.setattr(coarse, "check_order", lambda _similarity: OrderCheck(misplaced=[], repeated=[4]))
    output = str(tmp_path / "out.zarr")
    summary = package.align(observed, output, cluster="serial", **SMALL)
    assert summary.attention is not None
    assert [(record.z, record.kind) for record in summary.attention.records] == [(4, Kind.DUPLICATE)]
    assert summary.attention.unplaced == (4,)
    fields, _ = open_field(join(output, "fields", "pairs"))
    known = np.isfinite(np.asarray(fields[:])).any(axis=(2, 3, 4))
    assert not known[:, 4].any()
    assert not known[0, 5]
    assert known[0, [1, 2, 3, 6]].all()
    assert known[1, 5]  # the pair (3, 5), over the repeated section
