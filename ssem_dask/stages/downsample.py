"""Stage downsample: the multiscale pyramid, one level after the other, shard by shard."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.image.pooling import halve
from ssem_dask.stages.job import Job
from ssem_dask.stages.render import Warping, level_name, own_warping
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result, Task, box_key
from ssem_dask.types import AnyArray, ShapeZYX

NAME = "downsample"
_ROWS = 32
"""Rows of a pooled section of ids that are computed at once, so that what lies in between stays in the caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownsampleTask(Task):
    """Make one shard of a level from the level below it."""

    warping: Warping
    box: Box


def prepare(job: Job) -> None:
    """Nothing: the levels were created with the aligned volume."""
    assert job.mips >= 1


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """One generation a level."""
    return downsample_tasks(own_warping(job), output=job.output, digest=job.digests[NAME])


def downsample_tasks(warping: Warping, *, output: str, digest: str) -> Iterator[Iterable[Task]]:
    """For each level one task a shard."""
    for mip in range(1, warping.mips):
        yield (
            DownsampleTask(
                key=box_key(NAME, box.start, mip=mip),
                output=output,
                digest=digest,
                pixels=box.size * 4**mip,
                warping=warping,
                box=box,
            )
            for box in chunk_boxes(_level_shape(warping.info.shape, mip), chunk=warping.config.shard, mip=mip)
        )


def run(task: Task) -> Result:
    """Make one pixel of 2 × 2 of the finer level, section by section: their mean, or of ids the most frequent."""
    assert isinstance(task, DownsampleTask)
    box = task.box
    volume = Volume.open(task.warping.target)
    below = box.at_mip(box.mip - 1).clipped(volume.shape_at(box.mip - 1))
    finer = volume.read(below)
    pixels = halve_labels(finer) if task.warping.labels else halve(finer)
    volume.write(box, pixels)
    return Result(bytes_read=finer.nbytes, bytes_written=pixels.nbytes)


def footprint(task: Task) -> Footprint:
    """A shard reads the level below it, over the same place."""
    assert isinstance(task, DownsampleTask)
    mip, covered = task.box.mip, task.box.at_mip(0).clipped(task.warping.info.shape)
    return Footprint(
        reads=(Region(level_name(mip - 1), covered),),
        writes=(Region(level_name(mip), covered),),
    )


def estimate(job: Job) -> Estimate:
    """As `estimate_downsampling`."""
    return estimate_downsampling(own_warping(job))


def estimate_downsampling(warping: Warping) -> Estimate:
    """Each task holds its shard, the finer shards under it, and one section of them in float."""
    size, shard = warping.info.dtype.itemsize, warping.config.shard
    tasks, pixels, written = 0, 0, 0
    for mip in range(1, warping.mips):
        shape = _level_shape(warping.info.shape, mip)
        count = 1
        for n, s in zip(shape, shard, strict=True):
            count *= ceil_div(n, s)
        tasks += count
        written += shape[0] * shape[1] * shape[2] * size
        pixels += shape[0] * shape[1] * shape[2] * 4**mip
    z, y, x = (min(s, n) for s, n in zip(shard, _level_shape(warping.info.shape, 1), strict=True))
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=written * 4,
        bytes_written=written,
        files=tasks,
        memory=TASK_OVERHEAD + z * y * x * size * 8 + y * x * 4 * 4 * 3 if tasks else 0,
    )


def halve_labels(ids: AnyArray) -> AnyArray:
    """As `pool_labels`, of each section `(z, y, x)`."""
    z, y, x = ids.shape
    out = np.empty((z, ceil_div(y, 2), ceil_div(x, 2)), dtype=ids.dtype)
    for section, halved in zip(ids, out, strict=True):
        for first in range(0, len(halved), _ROWS):
            halved[first : first + _ROWS] = pool_labels(section[2 * first : 2 * (first + _ROWS)])
    return out


def pool_labels(ids: AnyArray) -> AnyArray:
    """The most frequent id of each 2 × 2 square.

    Of ids that are equally frequent the largest is taken, so that thin processes do not lose against the background 0.

    Args:
        ids: `(y, x)`, any integer type; an odd last row or column stands for two.

    Returns:
        `(ceil(y / 2), ceil(x / 2))`.
    """
    padded = np.pad(ids, [(0, n % 2) for n in ids.shape], mode="edge")
    # The four sorted by exchanges of whole arrays, several times as fast as np.sort.
    a, b = _sorted(padded[0::2, 0::2], padded[0::2, 1::2])
    c, d = _sorted(padded[1::2, 0::2], padded[1::2, 1::2])
    a, c = _sorted(a, c)
    b, d = _sorted(b, d)
    b, c = _sorted(b, c)
    pair = np.where(b == c, b, np.where(a == b, a, d))
    most: AnyArray = np.where(c == d, d, pair)
    return most


def _sorted(a: AnyArray, b: AnyArray) -> tuple[AnyArray, AnyArray]:
    return np.minimum(a, b), np.maximum(a, b)


def _level_shape(shape: ShapeZYX, mip: int) -> ShapeZYX:
    return (shape[0], *shape_at_mip((shape[1], shape[2]), mip=mip))
