"""Stage render: warp every section once by `fields/section`, shard by shard.

The same code warps the run's own source and, for `ssem-dask warp`, any other volume in its frame. Ids of a segmentation
are never mixed, neither here nor in the pyramid.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ssem_dask.errors import ConfigError
from ssem_dask.field.device import compute_device
from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_count, chunk_spans
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.contrast_tasks import contrast_cost, contrast_tasks, gains_task
from ssem_dask.stages.fix_clusters import clusters_at, fix_clusters
from ssem_dask.stages.fixed_rows import changed_pairs, create_fixed, fixed_regions
from ssem_dask.stages.fixed_sections import reading_order
from ssem_dask.stages.job import Job
from ssem_dask.stages.pair_support import support_fix_tasks, support_tasks
from ssem_dask.stages.replaced_sections import (
    Shown,
    nearest_reach,
    placed_by_support,
    showing_fixes,
    shown_sections,
    with_replacements,
)
from ssem_dask.stages.run_arrays import (
    ALIGNED,
    CONTRAST_PAIRS,
    FIXED,
    SECTION,
    SECTION_CONTRAST,
    SUPPORT,
    SUPPORT_SECTIONS,
    aligned_level,
)
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage
from ssem_dask.stages.warped_pixels import (
    NODE_MARGIN,
    change_contrast,
    read_nodes,
    to_dtype,
    warped_labels,
    warped_sections,
)
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.contrast_table import ContrastTable
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.task import Outcome, Result, Task, box_name
from ssem_dask.types import AnyArray, BoolArray, ConfigBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Warping:
    """A volume, the fields that warp it, and the volume that is written."""

    source: str
    """URL of the volume that is warped."""
    info: VolumeInfo
    """Shape, dtype, pixel size and channels of source and target."""
    fields: str
    """URL of `fields/section`."""
    spacing: int
    """mip-0 px between the fields' nodes."""
    target: str
    """URL of the volume that is written."""
    mips: int
    """Levels of the target."""
    config: RenderStageConfig
    contrast: str = ""
    """URL of `contrast/sections`, by which grey values are changed; empty: they are not."""
    support: str = ""
    """URL of `fields/pair_support`, which shows the sections that have no place; empty: all are warped."""
    fixes: VolumeFixes = NO_FIXES
    """Fixes that say which sections are left out, or have changed places."""
    fixed_support: str = ""
    """URL of `fields/fixed_pair_support`."""
    changed_pairs: tuple[tuple[int, int], ...] = ()
    """(k, z) of the pairs whose support is there."""
    labels: bool = False
    """Whether the values are ids: taken from the nearest pixel, and in the pyramid the most frequent one."""
    scale: float = 1.0
    """mip-0 px of the run per px of the volume, which may be coarser or finer than the run's source."""

    @classmethod
    def of_run(cls, job: Job, sections: range | None = None) -> "Warping":
        """Return the warp of the run's source to its aligned volume, for some of its sections; None: for all."""
        clusters = fix_clusters(job) if sections is None else clusters_at(job, with_replacements(sections))
        return cls(
            source=job.source,
            info=job.info,
            fields=SECTION.url(job),
            spacing=job.spacing,
            target=job.url(ALIGNED),
            mips=job.mips,
            config=job.render,
            contrast=SECTION_CONTRAST.url(job) if _matches_contrast(job) else "",
            support=SUPPORT.url(job),
            fixes=job.fixes.showing(),
            fixed_support=FIXED[SUPPORT].url(job),
            changed_pairs=tuple(sorted(changed_pairs(job, clusters))),
        )

    def create(self) -> None:
        """Create the target with all its levels; does nothing where it exists."""
        create_volume(self.target, info=self.info, chunk=self.config.chunk, shard=self.config.shard, mips=self.mips)

    def open_source(self) -> Volume:
        """Open the volume that is warped."""
        return Volume.open(self.source, like=self.info).reordered(reading_order(self.fixes))

    def shown(self, sections: range) -> Iterator[tuple[range, tuple[Shown, ...]]]:
        """Yield runs of sections with what is shown in their place, see `replaced_sections.shown_sections`."""
        return shown_sections(
            sections, unplaced=self.config.unplaced, fixes=self.fixes, placed=self.placed, labels=self.labels
        )

    def placed(self) -> BoolArray:
        """Return which sections have a place; all, if that is not known."""
        return placed_by_support(
            self.support, changed=self.fixed_support, pairs=self.changed_pairs, count=self.info.shape[0]
        )

    @property
    def needs_support(self) -> bool:
        """Whether what is written depends on which sections have a place."""
        return self.config.unplaced != "as_is" or any(fix.excluded for fix in self.fixes.sections.values())


def warp_shard(warping: Warping, box: Box) -> Result:
    """Read the field over a shard and the source pixels that it points to; write the warped pixels of each channel."""
    source, target = warping.open_source(), Volume.open(warping.target)
    contrast = (
        ContrastTable.of_rows(np.asarray(open_array(warping.contrast, mode="r")[:])) if warping.contrast else None
    )
    known, clipped = False, 0
    for channel, warped_channel in zip(source.each_channel, target.each_channel, strict=True):
        # Contrast is matched only in the channel that sections were compared in.
        is_registered = channel.info.channel == source.info.channel
        warped = _warped_box(warping, channel, box, contrast=contrast if is_registered else None)
        warped_channel.write(box, warped.pixels)
        known, clipped = known or warped.known, clipped + warped.clipped
    moved = box.size * warping.info.dtype.itemsize * warping.info.planes
    outcome = Outcome.OK if known else Outcome.NO_TISSUE
    return Result(outcome=outcome, bytes_read=moved, bytes_written=moved, clipped=clipped)


class _WarpedBox(NamedTuple):
    pixels: AnyArray
    """`(z, y, x)` of one channel."""
    known: bool
    """Whether any of them is known."""
    clipped: int
    """Pixels of which the changed contrast exceeds the dtype."""


def _warped_box(warping: Warping, source: Volume, box: Box, *, contrast: ContrastTable | None) -> _WarpedBox:
    """Warp a box of one channel, and change the contrast of its sections, if there is a table."""
    pixels = np.zeros(box.shape, dtype=warping.info.dtype)
    known, clipped = False, 0
    with torch.inference_mode():
        for sections, shown in warping.shown(box.sections):
            rows = slice(sections.start - box.start[0], sections.stop - box.start[0])
            parts = [
                (part.weight, _warped_run(warping, source, shown=part.sections, box=box, contrast=contrast))
                for part in shown
            ]
            if len(parts) == 1:
                pixels[rows] = parts[0][1].pixels
            elif parts:
                mixed = sum(weight * part.pixels.astype(np.float64) for weight, part in parts)
                pixels[rows] = np.rint(mixed).astype(pixels.dtype)
            known = known or any(part.known for _, part in parts)
            clipped += sum(part.clipped for _, part in parts)
    return _WarpedBox(pixels, known, clipped)


def _warped_run(
    warping: Warping, source: Volume, *, shown: range, box: Box, contrast: ContrastTable | None
) -> _WarpedBox:
    """Warp some sections of one channel in a box (its z is not used); arguments as of `_warped_box`."""
    pixels, known, clipped = np.zeros((len(shown), *box.shape_yx), dtype=warping.info.dtype), False, 0
    fields = read_nodes(warping.fields, sections=shown, box=box, spacing=warping.spacing, scale=warping.scale)
    if warping.labels:
        for row, (z, nodes) in enumerate(zip(shown, fields, strict=True)):
            pixels[row] = warped_labels(source, field=nodes.on_pixels(box), z=z, box=box)
        return _WarpedBox(pixels, bool(pixels.any()), 0)
    warped = warped_sections(
        source, fields=fields, sections=shown, box=box, kind=warping.config.interpolation, device=compute_device()
    )
    for row, (z, (image, mask)) in enumerate(zip(shown, warped, strict=True)):
        if contrast is not None and contrast.matched[z]:
            clipped += change_contrast(
                image,
                gain=float(contrast.gain[z]),
                offset=float(contrast.offset[z]),
                dtype=warping.info.dtype,
            )
        pixels[row] = to_dtype(image, warping.info.dtype)
        known = known or bool(mask.any())
    return _WarpedBox(pixels, known, clipped)


def shard_boxes(warping: Warping) -> Iterator[tuple[str, Box]]:
    """Yield the shards of a warped volume, each with the name of its task."""
    for box in chunk_boxes(warping.info.shape, chunk=warping.config.shard):
        yield box_name(box.start), box


def warp_sections(warping: Warping) -> Iterator[range]:
    """Yield the sections of each row of shards."""
    for start, stop in chunk_spans(warping.info.shape[0], chunk=warping.config.shard[0]):
        yield range(start, stop)


def warp_regions(warping: Warping, box: Box) -> tuple[Region, ...]:
    """Return the regions of source and field that a shard reads.

    The source is read wherever the field points, so in y and x whole. The region of the field is in px of the run.
    """
    z, y, x = warping.info.shape
    margin = (NODE_MARGIN + 1) * warping.spacing
    reach = nearest_reach(warping.config, warping.fixes.within(box.sections))
    nodes = _scaled(box, warping.scale).grown(before=(reach, margin, margin), after=(reach, margin, margin))
    nodes = nodes.clipped(_scaled(Box((0, 0, 0), (z, y, x)), warping.scale).stop)
    order = reading_order(warping.fixes.within(nodes.sections))
    exchanged = (Region("source", Box((n, 0, 0), (n + 1, y, x))) for n in order.values() if n not in nodes.sections)
    return Region("source", Box((nodes.start[0], 0, 0), (nodes.stop[0], y, x))), *exchanged, Region(SECTION.path, nodes)


def _scaled(box: Box, scale: float) -> Box:
    """Return a box of which y and x are multiplied, rounded outwards."""
    top, left = (math.floor(n * scale) for n in box.start[1:])
    bottom, right = (math.ceil(n * scale) for n in box.stop[1:])
    return Box((box.start[0], top, left), (box.stop[0], bottom, right), box.mip)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask(JobTask):
    """One shard of the aligned volume."""

    box: Box

    def run(self) -> Result:
        """Warp the shard."""
        return warp_shard(Warping.of_run(self.job, self.box.sections), self.box)

    def footprint(self) -> Footprint:
        """Read the field's nodes over the shard, and its sections of the source; write the shard."""
        warping, near = Warping.of_run(self.job), with_replacements(self.box.sections)
        reads = warp_regions(warping, self.box)
        own = replace(warping, fixes=warping.fixes.within(self.box.sections))
        # The pixels of a section depend on whether it has a place, which depends on all sections.
        fixed = fixed_regions(self.job, SUPPORT, start=near.start, stop=near.stop)
        support = (SUPPORT.region(self.job), *fixed) if own.needs_support else ()
        contrast = (SECTION_CONTRAST.region(self.job),) if _matches_contrast(self.job) else ()
        return Footprint(reads=(*reads, *support, *contrast), writes=(aligned_level(0).region_of(self.box),))


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpTask(Task):
    """One shard of another volume that is warped by a run's fields."""

    warping: Warping
    box: Box

    def run(self) -> Result:
        """Warp the shard."""
        return warp_shard(self.warping, self.box)

    def footprint(self) -> Footprint:
        """Read as a rendered shard does; write the shard of the volume's own level 0."""
        return Footprint(reads=warp_regions(self.warping, self.box), writes=(Region("0", self.box),))


class RenderStage(Stage):
    """Warping every section once by `fields/section`, shard by shard."""

    name = "render"
    upstream = ("compose",)
    config_type = RenderStageConfig
    layout_keys = ("chunk", "shard", "contrast")
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
        """Return the settings, without `contrast` if grey values stay those of the source."""
        table = super().decisive(job)
        return table if _matches_contrast(job) else {name: value for name, value in table.items() if name != "contrast"}

    def prepare(self, job: Job) -> None:
        """Create the aligned volume with all its levels, the support of pairs, and the tables of contrast."""
        SUPPORT.create(job)
        create_fixed(job, SUPPORT)
        if _matches_contrast(job):
            CONTRAST_PAIRS.create(job)
            SECTION_CONTRAST.create(job)
        Warping.of_run(job).create()

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the support of pairs, which shows which sections have a place; contrast, if asked for; all shards."""
        yield itertools.chain(support_tasks(self, job), support_fix_tasks(self, job))
        if _matches_contrast(job):
            yield contrast_tasks(self, job)
            yield [gains_task(self, job)]
        yield (
            RenderTask(**self.task_fields(job, name, pixels=box.size, fixes=showing_fixes(job, box.sections)), box=box)
            for name, box in shard_boxes(Warping.of_run(job))
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost, see `estimate_rendering`; averaging confidences takes little beside it."""
        rendering = estimate_rendering(Warping.of_run(job))
        tasks = ceil_div(job.shape[0], SUPPORT_SECTIONS)
        estimate = replace(rendering, tasks=rendering.tasks + tasks, files=rendering.files + tasks)
        if not _matches_contrast(job):
            return estimate
        tasks, read, memory = contrast_cost(job)
        return replace(
            estimate,
            tasks=estimate.tasks + tasks,
            files=estimate.files + tasks,
            bytes_read=estimate.bytes_read + read,
            memory=max(estimate.memory, TASK_OVERHEAD_BYTES + memory),
        )


def _matches_contrast(job: Job) -> bool:
    return job.render.contrast == "match"


def warp_tasks(warping: Warping, *, digest: Callable[[range], str]) -> Iterator[Task]:
    """Yield one task per shard of a warped volume that is no run's; `digest` returns that of a task by its sections."""
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
        for name, box in shard_boxes(warping)
    )


def estimate_rendering(warping: Warping) -> Estimate:
    """Return the cost. Each task reads about the pixels of its shard once, and writes them."""
    size, shape, planes = warping.info.dtype.itemsize, warping.info.shape, warping.info.planes
    z, y, x = (min(s, n) for s, n in zip(warping.config.shard, shape, strict=True))
    tasks = chunk_count(shape, chunk=warping.config.shard)
    pixels = math.prod(shape)
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=pixels * size * planes,
        bytes_written=pixels * size * planes,
        files=tasks * planes,
        # The source's pixels as read and in float, and the shard; per section a few arrays: pixels, positions, masks.
        memory=TASK_OVERHEAD_BYTES + y * x * (z * (size * 2 + 6) + 4 * 7),
        gpu_memory=y * x * (z * 16 + 60),
    )
