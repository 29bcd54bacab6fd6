"""Stage measure: what can be known of the result without a truth, by section and by window, for report and status.

A task measures `BLOCK` sections, some windows at a time, so that its memory does not grow with the sections. Images are
compared twice: in every window at a coarse mip of the aligned pyramid, and in a *probe*, a square in the middle of the
sections at the working mip, where the source is looked at as well. Nothing here changes the result.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.diagnosis.section_appearance import measure_appearance
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.similarity import chunked_correlation, normalised_correlation
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.stages.coarse_parts import read_part_arrays
from ssem_dask.stages.fix_clusters import fix_clusters
from ssem_dask.stages.fixed_rows import fixed_regions
from ssem_dask.stages.job import Job
from ssem_dask.stages.measure.attention_task import AttentionTask
from ssem_dask.stages.measure.field_tables import KEPT, READ_ARRAYS, measure_fields, patch_nodes
from ssem_dask.stages.measure.quality_frame import PROBE_PX, WINDOW_PX, quality_info
from ssem_dask.stages.measure.section_evidence import EVIDENCE_PX, REACH, measure_evidence
from ssem_dask.stages.replaced_sections import support_rows
from ssem_dask.stages.run_arrays import (
    ALIGNED,
    COARSE,
    CONFIDENCE,
    PAIRS,
    QUALITY_SECTIONS,
    QUALITY_WINDOWS,
    RESLICES,
    SECTION,
    SUPPORT,
    aligned_level,
)
from ssem_dask.stages.source_sections import open_source, read_pooled_sections
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage
from ssem_dask.storage.quality import (
    BLOCK,
    SECTION_COLUMNS,
    WINDOW_COLUMNS,
    QualityInfo,
    window_boxes,
    write_sections,
    write_windows,
)
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result
from ssem_dask.types import AnyArray, Float64Array

_TABLES = QUALITY_SECTIONS, QUALITY_WINDOWS, *RESLICES.values()
_SQUARE_PX = 64
"""Side of a square of chunked correlation, px."""


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
            probed, cuts = _probe(job, info, aligned, sections)
            similarity, coverage, read = _compare_windows(info, aligned, sections)
            fields = measure_fields(job, info, sections)
            evidence = measure_evidence(job, aligned, sections)
        areas = np.array([box.size for box in window_boxes(info)], dtype=np.float64).reshape(info.windows)
        probed["coverage"] = (coverage * areas).sum(axis=(1, 2)) / areas.sum()
        written = write_sections(job.output, start=self.start, values={**probed, **fields.sections, **evidence})
        windows = {**fields.windows, "similarity": similarity, "coverage": coverage}
        written += write_windows(job.output, start=self.start, values=windows)
        for (cut, time), pixels in cuts.items():
            written += RESLICES[cut, time].write(job, pixels, z=sections)
        probe = 2 * len(sections) * info.probe.shape[1] * info.probe.shape[2] * job.info.dtype.itemsize
        return Result(bytes_read=probe + read + fields.bytes_read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read its sections and those near them of source, pyramid and fields; write its rows of the tables."""
        job, near = self.job, (self.start - REACH, self.stop + REACH)
        levels = (aligned_level(mip).region(job, *near) for mip in range(job.mips))
        read = (
            array.region(job, *near if array is SECTION else (self.start - 1, self.stop))
            for array in (*READ_ARRAYS, *read_part_arrays(job))
        )
        fixed = fixed_regions(job, COARSE, PAIRS, CONFIDENCE, SUPPORT, start=near[0], stop=near[1])
        reached = range(max(0, near[0]), near[1])
        # Where sections without a place show something else, they are measured as they would be without that.
        rows = support_rows(job, reached) if job.render.unplaced != "as_is" else ()
        support = (SUPPORT.region(job, z.start, z.stop) for z in rows)
        return Footprint(
            reads=(*job.source_regions(*near, fixes=job.fixes), *support, *levels, *read, *fixed),
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
        return {"block": BLOCK, "columns": [*SECTION_COLUMNS], "window_columns": [*WINDOW_COLUMNS]}

    def prepare(self, job: Job) -> None:
        """Create the tables of `quality/`."""
        for array in _TABLES:
            array.create(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield blocks of sections, which are independent; then the names of all sections."""
        yield (
            MeasureTask(
                **self.task_fields(
                    job,
                    f"z{start:06d}",
                    pixels=(min(start + BLOCK, job.shape[0]) - start) * job.section_pixels,
                    stop=start + BLOCK + REACH,
                ),
                start=start,
                stop=min(start + BLOCK, job.shape[0]),
            )
            for start in range(0, job.shape[0], BLOCK)
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
            tasks=tasks + 1,
            pixels=job.size,
            bytes_read=z * (2 * probe * job.info.dtype.itemsize + y * x * job.info.dtype.itemsize + nodes * 4 * 6),
            # 40 columns per section are more than there are, so that a few more do not change the estimate.
            bytes_written=z
            * (40 * 4 + len(WINDOW_COLUMNS) * 4 * math.prod(info.windows) + 4 * PROBE_PX * job.info.dtype.itemsize),
            files=tasks * 6 + 1,
            # In turn: the probe, a band of windows, fields with the nodes kept for medians, and whole sections.
            memory=TASK_OVERHEAD_BYTES
            + max(
                probe * 55,
                band * 24,
                BLOCK * (patch * 80 + min(nodes, KEPT) * 20),
                nodes * 8 + EVIDENCE_PX**2 * ((BLOCK + 2 * REACH) * 12 + 400),
            ),
        )

    def request_bytes(self, job: Job) -> int:
        """Return the bytes of a chunk of the aligned volume."""
        return math.prod(job.render.chunk) * job.info.dtype.itemsize


def _probe(
    job: Job, info: QualityInfo, aligned: Volume, sections: range
) -> tuple[dict[str, Float64Array], dict[tuple[str, str], AnyArray]]:
    """Similarity of each section with the one before, and the rows of the cuts, before and after."""
    found: dict[str, Float64Array] = {}
    cuts: dict[tuple[str, str], AnyArray] = {}
    for time, volume in (("before", open_source(job, fixes=job.fixes)), ("after", aligned)):
        ncc, cpc = np.full(len(sections), np.nan), np.full(len(sections), np.nan)
        looks = {name: np.full(len(sections), np.nan) for name in ("contrast", "sharpness", "structure")}
        xz = np.zeros((len(sections), info.probe.shape[2]), dtype=job.info.dtype)
        yz = np.zeros((len(sections), info.probe.shape[1]), dtype=job.info.dtype)
        previous: tuple[AnyArray, Tensor] | None = None
        numbers = range(max(0, sections.start - 1), sections.stop)
        boxes = [Box((z, *info.probe.start_yx), (z + 1, *info.probe.stop[1:]), info.probe.mip) for z in numbers]
        for z, pooled in zip(numbers, read_pooled_sections(volume, boxes=boxes), strict=True):
            image, mask = pooled.numpy(), tissue_mask(pooled)
            i = z - sections.start
            if previous is not None:
                valid = (mask & previous[1]).numpy()
                ncc[i] = normalised_correlation(previous[0], image, valid=valid)
                cpc[i] = chunked_correlation(previous[0], image, valid=valid, side=_SQUARE_PX)
            if i >= 0:
                xz[i], yz[i] = image[len(image) // 2].round(), image[:, image.shape[1] // 2].round()
                if time == "before":
                    look = measure_appearance(pooled, mask=mask)
                    for name, values in looks.items():
                        values[i] = getattr(look, name)
            previous = image, mask
        ending = "" if time == "after" else "_before"
        found |= {f"ncc{ending}": ncc, f"cpc{ending}": cpc} | (looks if time == "before" else {})
        cuts |= {("xz", time): xz, ("yz", time): yz}
    return found, cuts


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
