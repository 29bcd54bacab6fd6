"""Stage downsample: the multiscale pyramid, one level after the other, shard by shard."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.registration.pyramid import pool
from ssem_dask.stages.job import Estimate, Job
from ssem_dask.stages.render import to_dtype
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result, Task
from ssem_dask.types import ShapeZYX

NAME = "downsample"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownsampleTask(Task):
    """Make one shard of a level from the level below it."""

    job: Job
    box: Box


def prepare(job: Job) -> None:
    """Nothing: the levels were created with the aligned volume."""
    assert job.mips >= 1


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """One generation a level."""
    for mip in range(1, job.mips):
        yield (
            DownsampleTask(
                key=f"{NAME}/mip{mip}-z{box.start[0]:06d}-y{box.start[1]:07d}-x{box.start[2]:07d}",
                output=job.output,
                digest=job.digests[NAME],
                pixels=box.size * 4**mip,
                job=job,
                box=box,
            )
            for box in chunk_boxes(_level_shape(job, mip), chunk=job.render.shard, mip=mip)
        )


def run(task: Task) -> Result:
    """Average 2 × 2 pixels of the finer level, section by section."""
    assert isinstance(task, DownsampleTask)
    box, dtype = task.box, task.job.info.dtype
    volume = Volume.open(task.job.url("aligned"))
    below = box.at_mip(box.mip - 1).clipped(volume.shape_at(box.mip - 1))
    finer = volume.read(below)
    pixels = np.stack([to_dtype(pool(torch.from_numpy(image.astype(np.float32)), 2), dtype) for image in finer])
    volume.write(box, pixels)
    return Result(bytes_read=finer.nbytes, bytes_written=pixels.nbytes)


def estimate(job: Job) -> Estimate:
    """Each task holds its shard, the finer shards under it, and one section of them in float."""
    size = job.info.dtype.itemsize
    tasks, pixels, written = 0, 0, 0
    for mip in range(1, job.mips):
        shape = _level_shape(job, mip)
        count = 1
        for n, s in zip(shape, job.render.shard, strict=True):
            count *= ceil_div(n, s)
        tasks += count
        written += shape[0] * shape[1] * shape[2] * size
        pixels += shape[0] * shape[1] * shape[2] * 4**mip
    z, y, x = (min(s, n) for s, n in zip(job.render.shard, job.shape, strict=True))
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=written * 4,
        bytes_written=written,
        files=tasks,
        memory=z * y * x * size * 5 + y * x * 4 * 4 * 2 if tasks else 0,
    )


def _level_shape(job: Job, mip: int) -> ShapeZYX:
    return (job.shape[0], *shape_at_mip((job.shape[1], job.shape[2]), mip=mip))
