"""Whether the aligned volume is compressed follows from a sample of the source, and stays for a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.errors import ConfigError, LayoutError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.aligned_arrays import aligned_level
from ssem_dask.stages.codec_choice import sampled_saving
from ssem_dask.stages.warped_volume import Warping
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray

SHAPE = (9, 70, 90)


def made(path: Path, pixels: AnyArray) -> str:
    info = VolumeInfo(shape=pixels.shape, dtype=pixels.dtype, pixel_size=4.0, section_thickness=40.0)
    create_volume(str(path), info=info, chunk=(2, 32, 32), shard=(2, 64, 64), mips=1)
    Volume.open(str(path)).write(Box((0, 0, 0), pixels.shape), pixels)
    return str(path)


def noise(path: Path) -> str:
    return made(path, np.random.default_rng(1).integers(1, 256, SHAPE).astype("uint8"))


def smooth(path: Path) -> str:
    values = gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), (1, 9, 9))
    return made(path, (128 + 20 * values / values.std()).clip(1, 255).astype("uint8"))


def empty(path: Path) -> str:
    return made(path, np.zeros(SHAPE, dtype="uint8"))


def codec_of(source: str, output: Path, **render: Any) -> str:
    job, choices = resolve(make_config({"source": source, "output": str(output), "render": render}))
    assert sum("render.codec" in choice for choice in choices) == ("codec" not in render)
    return job.render.codec


def test_a_sample_of_the_source_decides(tmp_path: Path) -> None:
    rough, even, blank = (make(tmp_path / f"{make.__name__}.zarr") for make in (noise, smooth, empty))
    assert codec_of(rough, tmp_path / "o.zarr") == "none"
    assert codec_of(even, tmp_path / "o.zarr") == "zstd"
    assert codec_of(blank, tmp_path / "o.zarr") == "zstd"
    assert codec_of(even, tmp_path / "o.zarr", codec="none") == "none"
    assert sampled_saving(Volume.open(rough)) == pytest.approx(0, abs=0.02)
    assert (sampled_saving(Volume.open(even)) or 0) > 0.3
    with pytest.raises(ConfigError, match=r"codec = 'gzip': input should be"):
        codec_of(even, tmp_path / "o.zarr", codec="gzip")


def test_places_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    source = made(tmp_path / "source.zarr", np.random.default_rng(1).integers(1, 256, (2, 700, 700)).astype("uint8"))
    files = sorted(path for path in Path(source).glob("0/c/**/*") if path.is_file())
    files[0].write_bytes(b"torn")
    assert codec_of(source, tmp_path / "o.zarr") == "none"
    for path in files:
        path.write_bytes(b"torn")
    assert sampled_saving(Volume.open(source)) is None
    assert codec_of(source, tmp_path / "o.zarr") == "zstd"


def test_the_choice_of_a_run_stays_and_the_user_can_change_it(tmp_path: Path) -> None:
    source, output = noise(tmp_path / "source.zarr"), tmp_path / "out.zarr"
    planned = plan(make_config({"source": source, "output": str(output)}))
    assert planned.job.render.codec == "none"
    config = {"render": {"codec": "none"}}
    create_run(str(output), attributes={"state": "running", "config": config})
    before = planned.job.digests
    smooth_pixels = Volume.open(smooth(tmp_path / "smooth.zarr")).read(Box((0, 0, 0), SHAPE))
    Volume.open(source).write(Box((0, 0, 0), SHAPE), smooth_pixels)
    job, _ = resolve(make_config({"source": source, "output": str(output)}))
    assert (job.render.codec, job.digests) == ("none", before)
    create_run(str(tmp_path / "old.zarr"), attributes={"state": "running", "config": {"render": {"chunk": [1, 1, 1]}}})
    assert codec_of(noise(tmp_path / "again.zarr"), tmp_path / "old.zarr") == "zstd"  # of before there was a choice


def test_pixels_are_the_same_and_files_are_not(tmp_path: Path) -> None:
    values = Volume.open(smooth(tmp_path / "source.zarr")).read(Box((0, 0, 0), SHAPE))
    sizes = {}
    for codec in ("zstd", "none"):
        job, _ = resolve(
            make_config(
                {
                    "source": str(tmp_path / "source.zarr"),
                    "output": str(tmp_path / f"{codec}.zarr"),
                    "render": {"codec": codec},
                }
            )
        )
        warping = Warping.of_run(job)
        warping.create()
        target = Volume.open(warping.target)
        target.write(Box((0, 0, 0), (8, *SHAPE[1:])), values[:8])
        np.testing.assert_array_equal(Volume.open(warping.target).read(Box((0, 0, 0), SHAPE))[:8], values[:8])
        files = Path(warping.target).glob("0/c/**/*")
        sizes[codec] = sum(path.stat().st_size for path in files if path.is_file())
        planned, stored = (
            len(array.compressors) for array in (aligned_level(0).planned(job), aligned_level(0).open(job))
        )
        assert planned == stored == (2 if codec == "zstd" else 1)
    assert sizes["none"] > 1.3 * sizes["zstd"]
    torn = next(path for path in Path(tmp_path / "none.zarr").glob("aligned/0/c/**/*") if path.is_file())
    content = bytearray(torn.read_bytes())
    content[100] ^= 1
    torn.write_bytes(content)
    with pytest.raises(Exception, match=r"damaged|checksum"):  # without compression there is a checksum too
        Volume.open(str(tmp_path / "none.zarr" / "aligned")).read(Box((0, 0, 0), SHAPE))
    other, _ = resolve(
        make_config(
            {
                "source": str(tmp_path / "source.zarr"),
                "output": str(tmp_path / "none.zarr"),
                "render": {"codec": "zstd"},
            }
        )
    )
    with pytest.raises(LayoutError, match="compression none is there, but zstd"):
        Warping.of_run(other).create()
