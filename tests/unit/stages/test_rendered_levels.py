"""A task of stage render writes the levels that are made of its pixels alone, as stage downsample would."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.field.grid import node_count
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import level_count
from ssem_dask.stages import rendered_levels
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.downsample import warp_level_tasks
from ssem_dask.stages.render import estimate_rendering, warp_tasks
from ssem_dask.stages.warped_volume import Warping
from ssem_dask.storage.arrays import create_array
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray, ShapeZYX

SPACING = 16


def warping_of(root: Path, shape: ShapeZYX, *, shard: ShapeZYX, smallest: int, labels: bool = False) -> Warping:
    """A warp of noise by a field of shifts, of which the target does not exist yet."""
    dtype = "uint32" if labels else "uint8"
    info = VolumeInfo(shape=shape, dtype=np.dtype(dtype), pixel_size=4.0, section_thickness=40.0)
    source = create_volume(str(root / "source.zarr"), info=info, chunk=(1, 64, 64), shard=(1, 64, 64), mips=1)
    rng = np.random.default_rng(2)
    source.write(Box((0, 0, 0), shape), rng.integers(0, 5 if labels else 256, shape).astype(dtype))
    nodes = tuple(node_count(n, spacing=SPACING) for n in shape[1:])
    field = rng.normal(0, 3, (shape[0], 2, *nodes)).astype("float32")
    axes, extent = ("z", "c", "y", "x"), field.shape
    layout: dict[str, Any] = {"chunks": extent, "shards": None, "fill_value": np.nan, "attributes": {}}
    create_array(str(root / "field.zarr"), shape=extent, dtype="float32", axes=axes, **layout)[:] = field
    return Warping(
        source=source.url,
        info=info,
        fields=str(root / "field.zarr"),
        spacing=SPACING,
        target=str(root / "target.zarr"),
        mips=level_count(shape[1:], smallest=smallest),
        config=RenderStageConfig(chunk=(shard[0], 16, 16), shard=shard),
        labels=labels,
    )


def levels_of(warping: Warping) -> list[Any]:
    volume = Volume.open(warping.target)
    return [volume.read(Box((0, 0, 0), volume.shape_at(mip), mip)) for mip in volume.mips]


@pytest.mark.parametrize(
    ("shape", "shard", "fewest", "doublings", "count", "labels"),
    [
        ((3, 150, 190), (2, 32, 32), (1, 1), 2, 3, False),
        ((3, 75, 95), (2, 16, 16), (12, 99), 1, 2, True),
        ((3, 61, 45), (2, 64, 64), (999, 999), 0, 3, True),  # whole sections in a shard
        ((2, 61, 45), (2, 16, 16), (1, 1), 2, 3, False),  # whole sections in a task
        ((2, 33, 100), (2, 48, 16), (1, 1), 2, 3, False),
    ],
)
def test_levels_of_tasks_are_those_of_stage_downsample(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: ShapeZYX,
    shard: ShapeZYX,
    fewest: tuple[int, int],
    doublings: int,
    count: int,
    labels: bool,
) -> None:
    monkeypatch.setattr(rendered_levels, "_FEWEST_TASKS", (10**9, 10**9))
    warping = warping_of(tmp_path, shape, shard=shard, smallest=16, labels=labels)
    whole = replace(warping, target=str(tmp_path / "whole.zarr"))
    whole.create()
    for task in warp_tasks(whole, digest=lambda _: ""):
        task.run()
    for generation in warp_level_tasks(whole, digest=lambda _: "", first=1):
        for task in generation:
            task.run()
    monkeypatch.setattr(rendered_levels, "_FEWEST_TASKS", fewest)
    assert (warping.levels.doublings, warping.levels.count) == (doublings, count)
    warping.create()
    with monkeypatch.context() as patch:
        read = Volume.read

        def only_the_source(volume: Volume, box: Box) -> AnyArray:
            assert volume.url == warping.source, "pixels are read back"
            return read(volume, box)

        patch.setattr(Volume, "read", only_the_source)
        tasks = list(warp_tasks(warping, digest=lambda _: ""))
        results = [task.run() for task in tasks]
    for mip in range(count):  # each pixel of these levels belongs to one task
        covered = np.zeros(warping.levels.shape_at(mip), dtype=int)
        for task in tasks:
            (region,) = (region for region in task.footprint().writes if region.name == str(mip))
            covered[region.box.at_mip(mip).clipped(warping.levels.shape_at(mip)).slices] += 1
        assert (covered == 1).all()
    estimate = estimate_rendering(warping)
    assert (estimate.tasks, estimate.bytes_written) == (len(tasks), sum(result.bytes_written for result in results))
    for generation in warp_level_tasks(warping, digest=lambda _: ""):
        for task in generation:
            task.run()
    for got, wanted in zip(levels_of(warping), levels_of(whole), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_shards_of_an_odd_side_are_left_to_stage_downsample() -> None:
    assert rendered_levels.LevelsOfTask((64, 900, 900), (1, 15, 15), 3).count == 1
    assert rendered_levels.LevelsOfTask((64, 15, 15), (1, 15, 15), 3).count == 3


def test_large_volumes_have_tasks_of_several_shards() -> None:
    shard = (8, 2048, 2048)
    found = {
        side: (levels.doublings, levels.count)
        for side in (1024, 4096, 8192, 100_000)
        for levels in [rendered_levels.LevelsOfTask((104, side, side), shard, 8)]
    }
    assert found == {1024: (0, 8), 4096: (0, 1), 8192: (1, 2), 100_000: (2, 3)}
