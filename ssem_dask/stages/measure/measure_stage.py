"""Stage measure: what can be known of the result without a truth, by section and by window, for report and status.

A task measures `BLOCK` sections, some windows at a time, so that its memory does not grow with the sections. Images are
compared twice: in every window at a coarse mip of the aligned pyramid, and in a *probe*, a square in the middle of the
sections at the working mip, where the source is looked at as well. Nothing here changes the result.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.similarity import chunked_correlation, normalised_correlation
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.stages.job import Job
from ssem_dask.stages.measure.field_tables import KEPT, READ_FIELDS, measure_fields, patch_nodes
from ssem_dask.stages.register import window_core
from ssem_dask.stages.render import level_name
from ssem_dask.stages.source_sections import open_source, read_pooled_sections
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.quality import (
    BLOCK,
    CUTS,
    TIMES,
    QualityInfo,
    create_quality,
    window_boxes,
    write_reslice,
    write_sections,
    write_windows,
)
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result, Task
from ssem_dask.types import AnyArray, Float64Array

NAME = "measure"
_PROBE = 1024  # px: detail enough to see jitter of a pixel, little enough to read of every section
_SQUARE = 64  # px of chunked correlation
_WINDOW_PIXELS = 128  # px across a window where all windows are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTask(Task):
    """Measure some sections."""

    job: Job
    start: int
    stop: int


def prepare(job: Job) -> None:
    """Create the tables of `quality/`."""
    create_quality(job.output, info=quality_info(job), dtype=job.info.dtype)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Blocks of sections; they are independent."""
    section = job.shape[1] * job.shape[2]
    yield (
        MeasureTask(
            key=f"{NAME}/z{start:06d}",
            output=job.output,
            digest=job.digests[NAME],
            pixels=(min(start + BLOCK, job.shape[0]) - start) * section,
            job=job,
            start=start,
            stop=min(start + BLOCK, job.shape[0]),
        )
        for start in range(0, job.shape[0], BLOCK)
    )


def run(task: Task) -> Result:
    """Measure images and fields, write the rows."""
    assert isinstance(task, MeasureTask)
    job, sections = task.job, range(task.start, task.stop)
    info = quality_info(job)
    aligned = Volume.open(job.url("aligned"))
    with torch.inference_mode():
        probed, cuts = _probe(job, info, aligned, sections)
        similarity, coverage, read = _compare_windows(info, aligned, sections)
        fields = measure_fields(job, info, sections)
    areas = np.array([box.size for box in window_boxes(info)], dtype=np.float64).reshape(info.windows)
    probed["coverage"] = (coverage * areas).sum(axis=(1, 2)) / areas.sum()
    written = write_sections(job.output, start=task.start, values={**probed, **fields.sections})
    windows = {**fields.windows, "similarity": similarity, "coverage": coverage}
    written += write_windows(job.output, start=task.start, values=windows)
    for (cut, time), pixels in cuts.items():
        written += write_reslice(job.output, start=task.start, cut=cut, time=time, pixels=pixels)
    probe = 2 * len(sections) * info.probe.shape[1] * info.probe.shape[2] * job.info.dtype.itemsize
    return Result(bytes_read=probe + read + fields.bytes_read, bytes_written=written)


def footprint(task: Task) -> Footprint:
    """A block reads its sections, and the one before them, of the source, the pyramid and all fields."""
    assert isinstance(task, MeasureTask)
    job = task.job
    read = ("source", *(level_name(mip) for mip in range(job.mips)), *(f"fields/{name}" for name in READ_FIELDS))
    cuts = (f"quality/reslice/{cut}_{time}" for cut in CUTS for time in TIMES)
    return Footprint(
        reads=tuple(job.sections(name, task.start - 1, task.stop) for name in read),
        writes=tuple(
            job.sections(name, task.start, task.stop) for name in ("quality/sections", "quality/windows", *cuts)
        ),
    )


def estimate(job: Job) -> Estimate:
    """Each task reads its fields once, the probe, and the pyramid's level where windows are compared."""
    info, z = quality_info(job), job.shape[0]
    tasks = ceil_div(z, BLOCK)
    probe = info.probe.shape[1] * info.probe.shape[2]
    y, x = shape_at_mip((job.shape[1], job.shape[2]), mip=info.similarity_mip)
    nodes = ceil_div(job.shape[1], job.spacing) * ceil_div(job.shape[2], job.spacing)
    band = (BLOCK + 1) * min(y, max(_WINDOW_PIXELS, info.window[0] >> info.similarity_mip)) * x
    held = patch_nodes((job.shape[1], job.shape[2]), window=info.window, spacing=job.spacing)
    return Estimate(
        tasks=tasks,
        pixels=job.size,
        bytes_read=z * (2 * probe * job.info.dtype.itemsize + y * x * job.info.dtype.itemsize + nodes * 4 * 6),
        bytes_written=z * (18 * 4 + 5 * 4 * math.prod(info.windows) + 4 * _PROBE * job.info.dtype.itemsize),
        files=tasks * 6,
        # One after the other: the probe, a band of windows, and fields with what is kept of them for medians.
        memory=TASK_OVERHEAD + max(probe * 55, band * 24, BLOCK * (held * 80 + min(nodes, KEPT) * 20)),
    )


def quality_info(job: Job) -> QualityInfo:
    """Where a run is measured."""
    _, y, x = window_core(job.register, job.shape)
    mip = min(job.register.mip or 0, job.mips - 1)
    extent = shape_at_mip((job.shape[1], job.shape[2]), mip=mip)
    height, width = (min(_PROBE, n) for n in extent)
    top, left = (extent[0] - height) // 2, (extent[1] - width) // 2
    coarse = max(0, round(math.log2(max(y, x) / _WINDOW_PIXELS)))
    return QualityInfo(
        shape_mip0=job.shape,
        window=(y, x),
        probe=Box((0, top, left), (job.shape[0], top + height, left + width), mip),
        similarity_mip=min(coarse, job.mips - 1),
    )


def _probe(
    job: Job, info: QualityInfo, aligned: Volume, sections: range
) -> tuple[dict[str, Float64Array], dict[tuple[str, str], AnyArray]]:
    """Similarity of each section with the one before, and the rows of the cuts, before and after."""
    found: dict[str, Float64Array] = {}
    cuts: dict[tuple[str, str], AnyArray] = {}
    for time, volume in (("before", open_source(job)), ("after", aligned)):
        ncc, cpc = np.full(len(sections), np.nan), np.full(len(sections), np.nan)
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
                cpc[i] = chunked_correlation(previous[0], image, valid=valid, side=_SQUARE)
            if i >= 0:
                xz[i], yz[i] = image[len(image) // 2].round(), image[:, image.shape[1] // 2].round()
            previous = image, mask
        ending = "" if time == "after" else "_before"
        found |= {f"ncc{ending}": ncc, f"cpc{ending}": cpc}
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
