"""Stage measure: what can be known of the result without a truth, by section and by window, for report and status.

A task measures `BLOCK` sections, some windows at a time, so that its memory does not grow with the sections. Images are
compared twice: in every window at a coarse mip of the aligned pyramid, and in a *probe*, a square in the middle of the
sections at the working mip. There the source is looked at as well, by tasks of their own (`source_task`), since it does
not change with the result. Nothing here changes the result.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.similarity import normalised_correlation
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED, aligned_level
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS, SUPPORT
from ssem_dask.stages.array_rows.quality_arrays import QUALITY_SECTIONS, QUALITY_SOURCE, QUALITY_WINDOWS, RESLICES
from ssem_dask.stages.coarse_parts import part_regions
from ssem_dask.stages.fix_clusters import fix_clusters
from ssem_dask.stages.fixed_rows import fixed_regions
from ssem_dask.stages.job import Job
from ssem_dask.stages.measure.attention_task import AttentionTask
from ssem_dask.stages.measure.field_tables import KEPT, READ_ARRAYS, measure_fields, patch_nodes
from ssem_dask.stages.measure.quality_frame import PROBE_PX, WINDOW_PX, quality_info
from ssem_dask.stages.measure.section_evidence import EVIDENCE_PX, REACH, measure_evidence
from ssem_dask.stages.measure.source_task import SOURCE_TABLES, probe_sections, source_tasks
from ssem_dask.stages.replaced_sections import support_rows
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage
from ssem_dask.storage.quality import (
    BLOCK,
    CUTS,
    SECTION_COLUMNS,
    SOURCE_COLUMNS,
    WINDOW_COLUMNS,
    QualityInfo,
    read_source,
    window_boxes,
    write_sections,
    write_windows,
)
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result
from ssem_dask.types import AnyArray, Float64Array

_TABLES = QUALITY_SECTIONS, QUALITY_WINDOWS, *(RESLICES[cut, "after"] for cut in CUTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTask(JobTask):
    """Quality of some sections."""

    start: int
    stop: int

    def run(self) -> Result:
        """Measure images and fields, write the rows."""
        job, sections = self.job, range(self.start, self.stop)
        info = quality_info(job)
        aligned = Volume.open(job.url(ALIGNED))
        with torch.inference_mode():
            probed, cuts = probe_sections(aligned, info, sections)
            similarity, coverage, read = _compare_windows(info, aligned, sections)
            fields = measure_fields(job, info, sections)
            evidence = measure_evidence(job, aligned, sections)
        areas = np.array([box.size for box in window_boxes(info)], dtype=np.float64).reshape(info.windows)
        probed["coverage"] = (coverage * areas).sum(axis=(1, 2)) / areas.sum()
        before = read_source(job.output, sections)
        rows: dict[str, AnyArray] = {**before, **probed, **fields.sections, **evidence}
        written = write_sections(job.output, start=self.start, values=rows)
        windows = {**fields.windows, "similarity": similarity, "coverage": coverage}
        written += write_windows(job.output, start=self.start, values=windows)
        for cut, pixels in cuts.items():
            written += RESLICES[cut, "after"].write(job, pixels, z=sections)
        probe = len(sections) * info.probe.shape[1] * info.probe.shape[2] * job.info.dtype.itemsize
        return Result(bytes_read=probe + read + fields.bytes_read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read its sections and those near them of source, pyramid and fields; write its rows of the tables."""
        job, near = self.job, (self.start - REACH, self.stop + REACH)
        levels = (aligned_level(mip).region(job, *near) for mip in range(job.mips))
        read = (array.region(job, *near if array is SECTION else (self.start - 1, self.stop)) for array in READ_ARRAYS)
        fixed = fixed_regions(job, COARSE, PAIRS, CONFIDENCE, SUPPORT, start=near[0], stop=near[1])
        reached = range(max(0, near[0]), near[1])
        # Where sections without a place show something else, they are measured as they would be without that.
        rows = support_rows(job, reached) if job.render.unplaced != "as_is" else ()
        support = (SUPPORT.region(job, z.start, z.stop) for z in rows)
        return Footprint(
            reads=(
                *job.source_regions(*near, fixes=job.fixes),
                QUALITY_SOURCE.region(job, self.start, self.stop),
                *support,
                *levels,
                *read,
                *part_regions(job, self.start - 1, self.stop, fixes=job.fixes),
                *fixed,
            ),
            writes=tuple(array.region(self.job, self.start, self.stop) for array in _TABLES),
        )


class MeasureStage(Stage):
    """Quality of the result without a truth, by section and by window, for report and status."""

    name = "measure"
    upstream = ("compose", "downsample")

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return what determines the layout of the tables: sections per task, and columns.

        So a run that is measured again has a column that was added since.
        """
        del job
        return {
            "block": BLOCK,
            "columns": [*SECTION_COLUMNS],
            "source_columns": [*SOURCE_COLUMNS],
            "window_columns": [*WINDOW_COLUMNS],
        }

    def prepare(self, job: Job) -> None:
        """Create the tables of `quality/`."""
        for array in (*SOURCE_TABLES, *_TABLES):
            array.create(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield blocks of sections of the source, the same of the result, then the names of all sections."""
        blocks = [(start, min(start + BLOCK, job.shape[0])) for start in range(0, job.shape[0], BLOCK)]
        yield source_tasks(self, job, blocks)
        yield (
            MeasureTask(
                **self.task_fields(
                    job,
                    f"z{start:06d}",
                    pixels=(stop - start) * job.section_pixels,
                    stop=start + BLOCK + REACH,
                ),
                start=start,
                stop=stop,
            )
            for start, stop in blocks
        )
        named = self.task_fields(
            job, "attention-all", fixes=job.fixes.showing(), clusters=fix_clusters(job), stop=job.shape[0]
        )
        yield [AttentionTask(**named)]

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. Each task reads its fields once, the probe, and the level where windows are compared."""
        info, z = quality_info(job), job.shape[0]
        tasks = ceil_div(z, BLOCK)
        probe = info.probe.shape[1] * info.probe.shape[2]
        y, x = shape_at_mip(job.shape_yx, mip=info.similarity_mip)
        nodes = math.prod(job.grid.shape)
        band = (BLOCK + 1) * min(y, max(WINDOW_PX, info.window[0] >> info.similarity_mip)) * x
        patch = patch_nodes(job.shape_yx, window=info.window, spacing=job.spacing)
        return Estimate(
            tasks=2 * tasks + 1,
            pixels=job.size,
            bytes_read=z * (2 * probe * job.info.dtype.itemsize + y * x * job.info.dtype.itemsize + nodes * 4 * 6),
            # 40 columns per section are more than there are, so that a few more do not change the estimate.
            bytes_written=z
            * (40 * 4 + len(WINDOW_COLUMNS) * 4 * math.prod(info.windows) + 4 * PROBE_PX * job.info.dtype.itemsize),
            files=tasks * 7 + 1,
            # In turn: the probe, a band of windows, fields with the nodes kept for medians, and whole sections.
            memory=TASK_OVERHEAD_BYTES
            + max(
                probe * 55,
                band * 24,
                BLOCK * (patch * 80 + min(nodes, KEPT) * 20),
                nodes * 8 + EVIDENCE_PX**2 * ((BLOCK + 2 * REACH) * 12 + 250),
            ),
        )

    def request_bytes(self, job: Job) -> int:
        """Return the bytes of a chunk of the aligned volume."""
        return math.prod(job.render.chunk) * job.info.dtype.itemsize


def _compare_windows(info: QualityInfo, aligned: Volume, sections: range) -> tuple[Float64Array, Float64Array, int]:
    """Similarity and coverage `(sections, y, x)` of every window of the aligned volume, and the bytes read."""
    mip, rows, columns = info.similarity_mip, *info.windows
    first = max(0, sections.start - 1)
    similarity, coverage = np.full((len(sections), rows, columns), np.nan), np.zeros((len(sections), rows, columns))
    boxes, read = window_boxes(info), 0
    extent = aligned.shape_at(mip)
    for row in range(rows):
        cores = [box.at_mip(mip).clipped(extent) for box in boxes[row * columns : (row + 1) * columns]]
        top, bottom = cores[0].start[1], cores[0].stop[1]
        band = aligned.read(Box((first, top, 0), (sections.stop, bottom, extent[2]), mip))
        read += band.nbytes
        mask = tissue_mask(torch.from_numpy(band.astype(np.float32))).numpy()
        for column, core in enumerate(cores):
            part = core.slices[2]
            for i, z in enumerate(sections):
                j = z - first
                coverage[i, row, column] = mask[j, :, part].mean()
                if j > 0:
                    similarity[i, row, column] = normalised_correlation(
                        band[j - 1, :, part], band[j, :, part], valid=mask[j - 1, :, part] & mask[j, :, part]
                    )
    return similarity, coverage, read
