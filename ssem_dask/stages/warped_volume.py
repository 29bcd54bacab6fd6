"""A volume that is warped, and the pixels of a task of it: read the field, warp, write.

The volume may be the run's own source or, for `ssem-dask warp`, any other in its frame. Ids of a segmentation are never
mixed, neither here nor in the pyramid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from ssem_dask.field.device import compute_device
from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_spans
from ssem_dask.geometry.region import Region
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import SECTION_CONTRAST, SUPPORT
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.fix_clusters import clusters_at, fix_clusters
from ssem_dask.stages.fixed_rows import changed_pairs
from ssem_dask.stages.fixed_sections import reading_order
from ssem_dask.stages.job import Job
from ssem_dask.stages.rendered_levels import LevelsOfTask
from ssem_dask.stages.replaced_sections import (
    Shown,
    nearest_reach,
    placed_by_support,
    shown_sections,
    supporting,
    with_replacements,
)
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
from ssem_dask.task import Outcome, Result, box_name
from ssem_dask.types import AnyArray, BoolArray


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
    fitted: int = 0
    """Sections of the run's fit, which say what support is usual; 0: all."""
    decisive_sections: int = 0
    """Sections that decide how much a task writes; 0: all."""
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
            contrast=SECTION_CONTRAST.url(job) if matches_contrast(job) else "",
            support=SUPPORT.url(job),
            fixes=job.fixes.showing(),
            fixed_support=FIXED[SUPPORT].url(job),
            changed_pairs=tuple(sorted(changed_pairs(job, clusters))),
            fitted=job.fit.shape[0],
            decisive_sections=job.deepest,
        )

    def create(self) -> None:
        """Create the target with all its levels; does nothing where it exists."""
        create_volume(
            self.target,
            info=self.info,
            chunk=self.config.chunk,
            shard=self.config.shard,
            mips=self.mips,
            # The sample that may have spoken against compression was of images.
            compression="none" if self.config.codec == "none" and not self.labels else "zstd",
        )

    def open_source(self) -> Volume:
        """Open the volume that is warped."""
        return Volume.open(self.source, like=self.info).reordered(reading_order(self.fixes))

    def shown(self, sections: range) -> Iterator[tuple[range, tuple[Shown, ...]]]:
        """Yield runs of sections with what is shown in their place, see `replaced_sections.shown_sections`."""
        return shown_sections(
            sections,
            unplaced=self.config.unplaced,
            fixes=self.fixes,
            placed=partial(self.placed, sections),
            labels=self.labels,
        )

    def placed(self, sections: range) -> BoolArray:
        """Return which of some sections, and of those that may replace them, have a place; all, if it is not known."""
        count = self.info.shape[0]
        return placed_by_support(
            self.support,
            changed=self.fixed_support,
            pairs=self.changed_pairs,
            count=count,
            near=supporting(sections, count=count),
            fitted=self.fitted or count,
        )

    @property
    def levels(self) -> LevelsOfTask:
        """The levels that each task writes."""
        return LevelsOfTask(self.info.shape, self.config.shard, self.mips, self.decisive_sections)

    @property
    def needs_support(self) -> bool:
        """Whether what is written depends on which sections have a place."""
        return self.config.unplaced != "as_is" or any(fix.excluded for fix in self.fixes.sections.values())


def warp_box(warping: Warping, box: Box) -> Result:
    """Warp the shards of a task, of each channel; write them, and the levels that are made of their pixels alone."""
    source, target = warping.open_source(), Volume.open(warping.target)
    contrast = (
        ContrastTable.of_rows(np.asarray(open_array(warping.contrast, mode="r")[:])) if warping.contrast else None
    )
    known, clipped, written = False, 0, 0
    for channel, warped_channel in zip(source.each_channel, target.each_channel, strict=True):
        # Contrast is matched only in the channel that sections were compared in.
        table = contrast if channel.info.channel == source.info.channel else None

        def warped(shard: Box, channel: Volume = channel, table: ContrastTable | None = table) -> AnyArray:
            nonlocal known, clipped
            made = warped_box(warping, channel, shard, contrast=table)
            known, clipped = known or made.known, clipped + made.clipped
            return made.pixels

        def write(shard: Box, pixels: AnyArray, target: Volume = warped_channel) -> None:
            nonlocal written
            target.write(shard, pixels)
            written += pixels.nbytes

        warping.levels.write(box, pixels_of=warped, write=write, labels=warping.labels)
    outcome = Outcome.OK if known else Outcome.NO_TISSUE
    moved = box.size * warping.info.dtype.itemsize * warping.info.planes
    return Result(outcome=outcome, bytes_read=moved, bytes_written=written, clipped=clipped)


class WarpedBox(NamedTuple):
    """Warped pixels of one channel."""

    pixels: AnyArray
    """`(z, y, x)` of one channel."""
    known: bool
    """Whether any of them is known."""
    clipped: int
    """Pixels of which the changed contrast exceeds the dtype."""


def warped_box(warping: Warping, source: Volume, box: Box, *, contrast: ContrastTable | None) -> WarpedBox:
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
    return WarpedBox(pixels, known, clipped)


def _warped_run(
    warping: Warping, source: Volume, *, shown: range, box: Box, contrast: ContrastTable | None
) -> WarpedBox:
    """Warp some sections of one channel in a box (its z is not used); arguments as of `warped_box`."""
    pixels, known, clipped = np.zeros((len(shown), *box.shape_yx), dtype=warping.info.dtype), False, 0
    fields = read_nodes(warping.fields, sections=shown, box=box, spacing=warping.spacing, scale=warping.scale)
    if warping.labels:
        for row, (z, nodes) in enumerate(zip(shown, fields, strict=True)):
            pixels[row] = warped_labels(source, field=nodes.on_pixels(box), z=z, box=box)
        return WarpedBox(pixels, bool(pixels.any()), 0)
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
    return WarpedBox(pixels, known, clipped)


def task_boxes(warping: Warping) -> Iterator[tuple[str, Box]]:
    """Yield the box of each task of a warped volume, at mip 0, with its name."""
    for box in chunk_boxes(warping.info.shape, chunk=warping.levels.extent):
        yield box_name(box.start), box


def warp_sections(warping: Warping) -> Iterator[range]:
    """Yield the sections of each row of shards."""
    for start, stop in chunk_spans(warping.info.shape[0], chunk=warping.config.shard[0]):
        yield range(start, stop)


def warp_regions(warping: Warping, box: Box) -> tuple[Region, ...]:
    """Return the regions of source and field that a task reads.

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


def matches_contrast(job: Job) -> bool:
    """Return whether grey values are changed so that sections fit their neighbours."""
    return job.render.contrast == "match"
