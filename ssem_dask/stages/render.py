"""Stage render: warp every section once by `fields/section`, some shards at a time, with the coarser levels of these.

`warped_volume` has the pixels, `rendered_levels` the levels that a task writes.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ssem_dask.errors import ConfigError
from ssem_dask.fixes.section_fixes import VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_count
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.array_rows.aligned_arrays import aligned_level
from ssem_dask.stages.array_rows.pair_arrays import CONTRAST_PAIRS, SECTION_CONTRAST, SUPPORT, SUPPORT_SECTIONS
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.contrast_tasks import contrast_cost, contrast_tasks, gains_task
from ssem_dask.stages.fixed_rows import create_fixed, fixed_regions
from ssem_dask.stages.job import Job
from ssem_dask.stages.pair_support import support_fix_tasks, support_tasks
from ssem_dask.stages.rendered_levels import LevelsOfTask
from ssem_dask.stages.replaced_sections import nearest_reach, showing_fixes, support_rows, with_replacements
from ssem_dask.stages.root_image import describe_root
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage, with_fix_tasks
from ssem_dask.stages.warped_volume import Warping, matches_contrast, task_boxes, warp_box, warp_regions
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.task import Result, Task
from ssem_dask.types import ConfigBase


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask(JobTask):
    """Some shards of the aligned volume, and the coarser levels that are made of them alone."""

    box: Box

    def run(self) -> Result:
        """Warp the shards."""
        return warp_box(Warping.of_run(self.job, self.box.sections), self.box)

    def footprint(self) -> Footprint:
        """Read the field's nodes over the box, and its sections of the source; write the box at each level."""
        warping, near = Warping.of_run(self.job), with_replacements(self.box.sections)
        reads = warp_regions(warping, self.box)
        own = replace(warping, fixes=warping.fixes.within(self.box.sections))
        # The pixels of a section depend on whether it has a place, which depends on all sections.
        fixed = fixed_regions(self.job, SUPPORT, start=near.start, stop=near.stop)
        rows = (SUPPORT.region(self.job, z.start, z.stop) for z in support_rows(self.job, self.box.sections))
        support = (*rows, *fixed) if own.needs_support else ()
        contrast = (SECTION_CONTRAST.region(self.job),) if matches_contrast(self.job) else ()
        writes = tuple(aligned_level(mip).region_of(self.box) for mip in range(warping.levels.count))
        return Footprint(reads=(*reads, *support, *contrast), writes=writes)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpTask(Task):
    """Some shards of another volume that is warped by a run's fields, with their coarser levels."""

    warping: Warping
    box: Box

    def run(self) -> Result:
        """Warp the shards."""
        return warp_box(self.warping, self.box)

    def footprint(self) -> Footprint:
        """Read as a rendered box does; write the box at the levels of the volume."""
        writes = tuple(Region(str(mip), self.box) for mip in range(self.warping.levels.count))
        return Footprint(reads=warp_regions(self.warping, self.box), writes=writes)


class RenderStage(Stage):
    """Warping every section once by `fields/section`, with the coarser levels that a task can make of its pixels."""

    name = "render"
    upstream = ("compose",)
    config_type = RenderStageConfig
    layout_keys = ("chunk", "shard", "codec", "contrast")
    uses_gpu = True

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Check chunk and shard; raise ConfigError if they do not fit each other or a task's memory."""
        del info
        assert isinstance(config, RenderStageConfig)
        if any(c < 1 or s % c for c, s in zip(config.chunk, config.shard, strict=True)):
            raise ConfigError(
                f"[render] shard = {list(config.shard)}: must be a multiple of chunk = {list(config.chunk)} on "
                "every axis."
            )
        if math.prod(config.shard) > 1 << 30:
            raise ConfigError(
                f"[render] shard = {list(config.shard)}: {math.prod(config.shard) / 2**30:.1f} Gpx in one file, but a "
                "task holds a whole shard in memory; use at most 1 Gpx, for example [8, 2048, 2048]."
            )
        choices = []
        if config.contrast == "match":
            choices.append(
                'render.contrast = "match": grey values of each section are multiplied and shifted to fit those of its '
                "neighbours; sections are compared at most 512 px wide before they are written"
            )
        return config, choices

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return the settings, without `contrast` if grey values stay those of the source; and what a task writes."""
        table = super().decisive(job)
        if not matches_contrast(job):
            del table["contrast"]
        if table["codec"] == "zstd":
            del table["codec"]  # as before there was a choice
        return {**table, **LevelsOfTask((job.deepest, *job.shape_yx), job.render.shard, job.mips).decisive()}

    def prepare(self, job: Job) -> None:
        """Create the aligned volume with all its levels, the support of pairs, and the tables of contrast."""
        SUPPORT.create(job)
        create_fixed(job, SUPPORT)
        if matches_contrast(job):
            CONTRAST_PAIRS.create(job)
            SECTION_CONTRAST.create(job)
        Warping.of_run(job).create()
        describe_root(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the support of pairs, which shows which sections have a place; contrast, if asked for; all shards."""
        yield itertools.chain(support_tasks(self, job), support_fix_tasks(self, job))
        if matches_contrast(job):
            yield contrast_tasks(self, job)
            yield [gains_task(self, job)]
        reach = job.render.shard[0] + nearest_reach(job.render, job.fixes)
        yield (
            RenderTask(**self.task_fields(job, name, pixels=box.size, fixes=fixes, stop=box.start[0] + reach), box=box)
            for fixes, boxes in _fixes_of_boxes(job)
            for name, box in boxes
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost, see `estimate_rendering`; averaging confidences takes little beside it."""
        rendering = estimate_rendering(Warping.of_run(job))
        tasks = ceil_div(job.shape[0], SUPPORT_SECTIONS)
        estimate = replace(rendering, tasks=rendering.tasks + tasks, files=rendering.files + tasks)
        estimate = with_fix_tasks(estimate, support_fix_tasks(self, job))
        if not matches_contrast(job):
            return estimate
        tasks, read, memory = contrast_cost(job)
        return replace(
            estimate,
            tasks=estimate.tasks + tasks,
            files=estimate.files + tasks,
            bytes_read=estimate.bytes_read + read,
            memory=max(estimate.memory, TASK_OVERHEAD_BYTES + memory),
        )


def _fixes_of_boxes(job: Job) -> Iterator[tuple[VolumeFixes, Iterator[tuple[str, Box]]]]:
    """Yield the boxes of all tasks and their names, row by row of shards along z, with the fixes that they show."""
    for sections, boxes in itertools.groupby(task_boxes(Warping.of_run(job)), key=lambda named: named[1].sections):
        yield showing_fixes(job, sections), boxes


def warp_tasks(warping: Warping, *, digest: Callable[[range], str]) -> Iterator[Task]:
    """Yield the tasks of level 0 of a warped volume that is no run's; `digest` returns a task's, by its sections."""
    return (
        WarpTask(
            key=f"{RenderStage.name}/{name}",
            output=warping.target,
            digest=digest(box.sections),
            pixels=box.size,
            uses_gpu=RenderStage.uses_gpu,
            warping=warping,
            box=box,
        )
        for name, box in task_boxes(warping)
    )


def estimate_rendering(warping: Warping) -> Estimate:
    """Return the cost. Each task reads about the pixels of its shards once, and writes them and coarser levels."""
    size, shape, planes, levels = warping.info.dtype.itemsize, warping.info.shape, warping.info.planes, warping.levels
    z, y, x = (min(s, n) for s, n in zip(warping.config.shard, shape, strict=True))
    written = [levels.shape_at(mip) for mip in range(levels.count)]
    return Estimate(
        tasks=chunk_count(shape, chunk=levels.extent),
        pixels=math.prod(shape),
        bytes_read=math.prod(shape) * size * planes,
        bytes_written=sum(map(math.prod, written)) * size * planes,
        files=sum(chunk_count(level, chunk=warping.config.shard) for level in written) * planes,
        # The source's pixels as read and in float, and the shard; per section a few arrays: pixels, positions, masks.
        # Of each coarser level that is not made of one shard, a shard waits until it is whole.
        memory=TASK_OVERHEAD_BYTES + y * x * (z * (size * (2 + levels.doublings) + 6) + 4 * 7),
        gpu_memory=y * x * (z * 16 + 60),
    )
