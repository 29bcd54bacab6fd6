"""Stage downsample: the rest of the multiscale pyramid, one level after the other, shard by shard.

Stage render has written the finest levels, see `rendered_levels`; each level here is made of shards of several tasks.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_count
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.image.label_pooling import halve_labels
from ssem_dask.image.pooling import halve
from ssem_dask.stages.array_rows.aligned_arrays import aligned_level
from ssem_dask.stages.configs import DownsampleStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Estimate, JobTask, Stage
from ssem_dask.stages.warped_volume import Warping
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result, Task, box_name
from ssem_dask.types import ShapeZYX


def halve_shard(warping: Warping, box: Box) -> Result:
    """Make a shard of a level from the finer level, section by section: means of 2 × 2 px, or the most frequent id."""
    read, written = 0, 0
    for volume in Volume.open(warping.target).each_channel:
        finer_box = box.at_mip(box.mip - 1).clipped(volume.shape_at(box.mip - 1))
        finer = volume.read(finer_box)
        pixels = halve_labels(finer) if warping.labels else halve(finer)
        volume.write(box, pixels)
        read, written = read + finer.nbytes, written + pixels.nbytes
    return Result(bytes_read=read, bytes_written=written)


def level_boxes(warping: Warping, mip: int) -> Iterator[tuple[str, Box]]:
    """Yield the shards of a level, each with the name of its task."""
    for box in chunk_boxes(_level_shape(warping.info.shape, mip), chunk=warping.config.shard, mip=mip):
        yield box_name(box.start, mip=mip), box


@dataclass(frozen=True, slots=True, kw_only=True)
class DownsampleTask(JobTask):
    """One shard of a level of the aligned volume, from the finer level."""

    box: Box
    """Box at the level's mip."""

    def run(self) -> Result:
        """Make the shard."""
        return halve_shard(Warping.of_run(self.job), self.box)

    def footprint(self) -> Footprint:
        """Read the finer level over the same box; write the shard."""
        mip, covered = self.box.mip, self.box.at_mip(0).clipped(self.job.shape)
        return Footprint(
            reads=(aligned_level(mip - 1).region_of(covered),), writes=(aligned_level(mip).region_of(covered),)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpLevelTask(Task):
    """One shard of a level of another warped volume, from the finer level."""

    warping: Warping
    box: Box

    def run(self) -> Result:
        """Make the shard."""
        return halve_shard(self.warping, self.box)

    def footprint(self) -> Footprint:
        """Read the finer level over the same box; write the shard."""
        mip, covered = self.box.mip, self.box.at_mip(0).clipped(self.warping.info.shape)
        return Footprint(reads=(Region(str(mip - 1), covered),), writes=(Region(str(mip), covered),))


class DownsampleStage(Stage):
    """The levels of the pyramid that stage render leaves, one after the other, shard by shard."""

    name = "downsample"
    upstream = ("render",)
    config_type = DownsampleStageConfig

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return nothing: a setting adds or removes levels, but changes none of those that are made here."""
        del job
        return {}

    def prepare(self, job: Job) -> None:
        """Do nothing: the levels were created with the aligned volume."""

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield one generation per level."""
        warping, depth = Warping.of_run(job), job.render.shard[0]
        for mip in range(warping.levels.count, warping.mips):
            yield (
                DownsampleTask(
                    **self.task_fields(job, name, pixels=box.size * 4**mip, stop=box.start[0] + depth), box=box
                )
                for name, box in level_boxes(warping, mip)
            )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost, see `estimate_downsampling`."""
        return estimate_downsampling(Warping.of_run(job))

    def request_bytes(self, job: Job) -> int:
        """Return the bytes of a chunk of the aligned volume."""
        return math.prod(job.render.chunk) * job.info.dtype.itemsize


def warp_level_tasks(
    warping: Warping, *, digest: Callable[[range], str], first: int | None = None
) -> Iterator[Iterable[Task]]:
    """Yield one generation per level of a warped volume that is no run's.

    Args:
        warping: the volume.
        digest: as in `warp_tasks`.
        first: finest level that is made; None: the finest one that `warp_tasks` do not write.
    """
    for mip in range(warping.levels.count if first is None else first, warping.mips):
        yield (
            WarpLevelTask(
                key=f"{DownsampleStage.name}/{name}",
                output=warping.target,
                digest=digest(box.sections),
                pixels=box.size * 4**mip,
                warping=warping,
                box=box,
            )
            for name, box in level_boxes(warping, mip)
        )


def estimate_downsampling(warping: Warping) -> Estimate:
    """Return the cost. Each task holds its shard, the finer shards under it, and copies while they are coded."""
    size, shard, planes = warping.info.dtype.itemsize, warping.config.shard, warping.info.planes
    tasks, pixels, written, first = 0, 0, 0, warping.levels.count
    for mip in range(first, warping.mips):
        shape = _level_shape(warping.info.shape, mip)
        tasks += chunk_count(shape, chunk=shard)
        written += math.prod(shape) * size
        pixels += math.prod(shape) * 4**mip
    z, y, x = (min(s, n) for s, n in zip(shard, _level_shape(warping.info.shape, first), strict=True))
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=written * 4 * planes,
        bytes_written=written * planes,
        files=tasks * planes,
        memory=z * y * x * size * 7 if tasks else 0,
    )


def _level_shape(shape: ShapeZYX, mip: int) -> ShapeZYX:
    return (shape[0], *shape_at_mip((shape[1], shape[2]), mip=mip))
