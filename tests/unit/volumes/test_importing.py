"""`import` writes the levels that stage downsample would make of what it wrote at mip 0, whatever the bands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

import ssem_dask as package
from ssem_dask.cli.app import app
from ssem_dask.errors import PlanError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.downsample import warp_level_tasks
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.stages.warped_volume import Warping
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray, ShapeZYX
from ssem_dask.volumes.importing import import_volume, plan_import

SIZES: dict[str, Any] = {"pixel_size": 4.0, "section_thickness": 40.0}


def values_of(shape: ShapeZYX, *, dtype: str, few: bool = False) -> AnyArray:
    """Noise; of `few` ids, so that some are equal among neighbours."""
    high = 4 if few else np.iinfo(dtype).max
    return np.random.default_rng(5).integers(0, high, shape, dtype=dtype, endpoint=True)


def level(url: str, mip: int) -> AnyArray:
    volume = Volume.open(url)
    return volume.read(Box((0, 0, 0), volume.shape_at(mip), mip))


def downsampled(values: AnyArray, url: str, *, mips: int, labels: bool) -> str:
    """A volume of which stage downsample made all levels but the first."""
    info = VolumeInfo(shape=values.shape, dtype=values.dtype, **SIZES)
    config = RenderStageConfig(chunk=(4, 128, 128), shard=(4, 1024, 1024))
    warping = Warping(source="", info=info, fields="", spacing=1, target=url, mips=mips, config=config, labels=labels)
    warping.create()
    Volume.open(url).write(Box((0, 0, 0), info.shape), values)
    for generation in warp_level_tasks(warping, digest=lambda _: "", first=1):
        for task in generation:
            task.run()
    return url


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 100], ids=lambda n: f"bands of {n} shards")
@pytest.mark.parametrize(
    ("shape", "chunk", "shard", "levels"),
    [
        ((3, 301, 527), (1, 32, 96), (2, 64, 288), 3),
        ((2, 530, 259), (2, 16, 260), (2, 48, 260), 3),  # what a shard of 48 rows gives is no part of the next one
        ((2, 160, 258), (2, 15, 129), (2, 15, 129), 2),  # shards of an odd number of rows
        ((2, 1, 700), (2, 8, 256), (2, 8, 256), 3),
        ((2, 700, 1), (2, 64, 8), (2, 64, 8), 3),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "labels"), [("uint8", False), ("uint16", False), ("uint64", True)])
def test_the_levels_are_those_of_stage_downsample(
    dtype: str,
    labels: bool,
    shape: ShapeZYX,
    chunk: ShapeZYX,
    shard: ShapeZYX,
    levels: int,
    rows: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, url = values_of(shape, dtype=dtype, few=labels), str(tmp_path / "a.zarr")
    monkeypatch.setattr("ssem_dask.volumes.import_slabs.BAND_BYTES", rows * values[: shard[0], : shard[1]].nbytes)
    zarr.create_array(str(tmp_path / "source.zarr"), data=values)
    source, done = str(tmp_path / "source.zarr"), list[int]()
    options: dict[str, Any] = {"chunk": chunk, "shard": shard, "labels": labels, **SIZES}
    assert plan_import(source, url, **options).mips == levels
    import_volume(source, url, progress=done.append, **options)
    assert sum(done) == values.size  # of mip 0 alone
    assert Volume.open(url).mips == tuple(range(levels))
    expected = downsampled(values, str(tmp_path / "b.zarr"), mips=levels, labels=labels)
    for mip in range(levels):
        np.testing.assert_array_equal(level(url, mip), level(expected, mip))


def test_nothing_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values_of((4, 600, 520), dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    monkeypatch.setattr("ssem_dask.volumes.import_slabs.BAND_BYTES", 1)
    monkeypatch.setattr(Volume, "read", lambda *_: pytest.fail("the volume is read back"))
    package.import_volume(str(tmp_path / "a.tif"), str(tmp_path / "a.zarr"), shard=(2, 512, 512), **SIZES)


def test_without_a_pyramid_there_is_mip_0_alone(tmp_path: Path) -> None:
    values, source = values_of((2, 300, 310), dtype="uint8"), str(tmp_path / "a.tif")
    tifffile.imwrite(source, values, photometric="minisblack")
    without, with_it = str(tmp_path / "without.zarr"), str(tmp_path / "with.zarr")
    words = ["import", source, with_it, "--pixel-size", "4", "--section-thickness", "40", "--json"]
    assert plan_import(source, without, pyramid=False, **SIZES).mips == 1
    for url, switches, mips in ((with_it, [], (0, 1)), (without, ["--no-pyramid"], (0,))):
        printed = CliRunner().invoke(app, [*words[:2], url, *words[3:], *switches])
        assert printed.exit_code == 0, printed.output
        assert json.loads(printed.stdout)["levels"] == len(mips)
        assert Volume.open(url).mips == mips
        np.testing.assert_array_equal(level(url, 0), values)
    # What was there before is replaced whole: no level of it is left.
    import_volume(source, with_it, pyramid=False, overwrite=True, **SIZES)
    assert Volume.open(with_it).mips == (0,)
    assert not (tmp_path / "with.zarr" / "1").exists()


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    info = VolumeInfo(shape=(2, 100, 90), dtype=np.dtype(np.uint8), **SIZES)
    volume = create_volume(str(tmp_path / "a.zarr"), info=info, chunk=(1, 32, 32), shard=(2, 64, 64), mips=2)
    rows = values_of((2, 101, 90), dtype="uint8")
    for wrong in (rows, rows[:1, :64], rows[:, :64, :80], rows[:, :63]):
        with pytest.raises(PlanError):
            SlabWriter(volume, sections=range(2), labels=False).write(wrong)
    slab = SlabWriter(volume, sections=range(2), labels=False)
    slab.write(rows[:, :64])
    with pytest.raises(PlanError, match=r"\(2, 36, 90\) are left"):
        slab.write(rows[:, :64])
    slab.write(rows[:, 64:100])
    np.testing.assert_array_equal(level(volume.url, 0), rows[:, :100])


def test_import_loads_no_stage_that_it_does_not_use() -> None:
    """An import needs neither the solvers nor scipy, which take 50 MB and half a second."""
    code = "import sys, ssem_dask.volumes.importing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"scipy", "ssem_dask.stages.pipeline_order", "ssem_dask.stages.render"} & {*loaded}
