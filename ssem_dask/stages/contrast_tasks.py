"""Contrast of sections: gain and offset of each, which stage render applies if `[render] contrast = "match"`.

A task compares small images of some sections with those of the sections before them, aligned by their fields. One task
then solves for the corrections of all sections together. Sections that registration could not place, inverted ones, and
those that repeat another or seem out of order take no part.
"""

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import torch

from ssem_dask.composition.section_contrast import ContrastPairs, match_contrast
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.contrast_pairs import compare_contrast
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_INVERTED, COARSE_STATE, SectionState
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.array_rows.pair_arrays import (
    CONTRAST_PAIRS,
    CONTRAST_REACH,
    CONTRAST_SECTIONS,
    DAMAGE,
    SECTION_CONTRAST,
    SUPPORT,
)
from ssem_dask.stages.fix_clusters import fix_clusters
from ssem_dask.stages.fixed_rows import fixed_regions, read_places
from ssem_dask.stages.job import Job
from ssem_dask.stages.pair_support import read_placed
from ssem_dask.stages.section_labels import listed_sections
from ssem_dask.stages.source_sections import open_source
from ssem_dask.stages.stage import JobTask, Stage
from ssem_dask.stages.thumbnails import FIELD_NODES, thinned_field, warp_thumbnails
from ssem_dask.storage.contrast_table import ContrastTable
from ssem_dask.task import Result
from ssem_dask.types import BoolArray
from ssem_dask.units import plural

COMPARED_PX, _LEAST_PX = 512, 64
"""Longest side of the compared images, px; the shorter one of a strip has at least `_LEAST_PX`, if it has that many."""
_BYTES_PER_PIXEL = 24
"""Bytes per pixel of an image with its mask and its positions in the source."""


def contrast_mip(job: Job) -> int:
    """Return the mip at which sections are compared."""
    wanted = math.ceil(math.log2(max(1.0, max(job.shape_yx) / COMPARED_PX)))
    thin = math.floor(math.log2(max(1.0, min(job.shape_yx) / _LEAST_PX)))
    return min(wanted, thin)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastTask(JobTask):
    """Contrast of some sections compared with the sections before them."""

    start: int
    stop: int

    def run(self) -> Result:
        """Warp small images of the sections, and compare each with those before it."""
        job, first = self.job, max(0, self.start - CONTRAST_REACH)
        mip = contrast_mip(job)
        pixels = Grid(shape_at_mip(job.shape_yx, mip=mip), float(2**mip))
        here = pixels.positions()
        sections, places = range(first, self.stop), []
        with torch.inference_mode():
            for z in sections:
                field, grid = thinned_field(job, z)
                places.append(here + sample_known(field, grid=grid, positions=here))
            warped = list(warp_thumbnails(open_source(job, fixes=job.fixes), sections=sections, mip=mip, places=places))
        images = [image.double().numpy() for image, _ in warped]
        masks = [mask.numpy() for _, mask in warped]
        if job.mask.active:
            masks = [m & _sound(job, z, p.numpy()) for m, z, p in zip(masks, sections, places, strict=True)]
        rows = np.full((CONTRAST_REACH, self.stop - self.start, CONTRAST_PAIRS.axes[2].size(job)), np.nan)
        for z in range(self.start, self.stop):
            for k in range(1, min(z, CONTRAST_REACH) + 1):
                i, j = z - first, z - k - first
                pair = compare_contrast(images[i], images[j], valid=masks[i] & masks[j])
                rows[k - 1, z - self.start] = astuple(pair)
        written = CONTRAST_PAIRS.write(job, rows, z=range(self.start, self.stop))
        read = job.source_bytes(len(sections) * job.section_pixels, mip=mip)
        return Result(bytes_read=read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the sections, their fields and masks, and those of the sections before; write the comparisons."""
        job, first = self.job, max(0, self.start - CONTRAST_REACH)
        reads = [*job.source_regions(first, self.stop, fixes=job.fixes), SECTION.region(job, first, self.stop)]
        if job.mask.active:
            reads.append(DAMAGE.region(job, first, self.stop))
        return Footprint(reads=tuple(reads), writes=(CONTRAST_PAIRS.region(job, self.start, self.stop),))


@dataclass(frozen=True, slots=True, kw_only=True)
class GainsTask(JobTask):
    """Gain and offset of all sections."""

    def run(self) -> Result:
        """Solve for the corrections of all sections together."""
        job = self.job
        rows = CONTRAST_PAIRS.read(job)
        names = CONTRAST_PAIRS.open(job).attrs["columns"]
        assert isinstance(names, list)
        pairs = ContrastPairs(**{str(name): rows[..., i].astype(np.float64) for i, name in enumerate(names)})
        limits = np.iinfo(job.info.dtype)
        usable = _usable(job)
        solved = match_contrast(pairs, usable=usable, limit=float(limits.max) - float(limits.min))
        table = ContrastTable(solved.gain, solved.offset, solved.matched, solved.level)
        written = SECTION_CONTRAST.write(job, table.rows())
        return Result(message=_describe(job, table), bytes_read=rows.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the comparisons and states of all sections; write their corrections."""
        reads = CONTRAST_PAIRS, SUPPORT, COARSE_STATE, COARSE_INVERTED
        return Footprint(
            reads=(
                *(array.region(self.job) for array in reads),
                *fixed_regions(self.job, SUPPORT, COARSE_STATE, COARSE_INVERTED, start=0, stop=self.job.shape[0]),
            ),
            writes=(SECTION_CONTRAST.region(self.job),),
        )


def contrast_tasks(stage: Stage, job: Job) -> Iterator[ContrastTask]:
    """Yield the comparisons of all sections."""
    for start in range(0, job.shape[0], CONTRAST_SECTIONS):
        yield ContrastTask(
            **stage.task_fields(job, f"contrast-z{start:06d}"),
            start=start,
            stop=min(start + CONTRAST_SECTIONS, job.shape[0]),
        )


def gains_task(stage: Stage, job: Job) -> GainsTask:
    """Return the task that solves for all sections."""
    return GainsTask(**stage.task_fields(job, "gains-all", fixes=job.fixes.showing(), clusters=fix_clusters(job)))


def contrast_cost(job: Job) -> tuple[int, int, int]:
    """Return the tasks, the bytes that they read, and the peak memory of one beside what every task takes."""
    tasks = ceil_div(job.shape[0], CONTRAST_SECTIONS)
    sections = job.shape[0] + (tasks - 1) * CONTRAST_REACH
    mip = contrast_mip(job)
    nodes = min(math.prod(job.grid.shape), FIELD_NODES**2)
    y, x = shape_at_mip(job.shape_yx, mip=mip)
    read = job.source_bytes(sections * job.section_pixels, mip=mip) + sections * nodes * 8
    memory = (CONTRAST_SECTIONS + CONTRAST_REACH) * y * x * _BYTES_PER_PIXEL + 8 * y * x * 8
    return tasks + 1, read, memory


def _usable(job: Job) -> BoolArray:
    """Return the sections (z,) that may be compared with others."""
    every = range(job.shape[0])
    in_order = ~np.isin(read_places(job, COARSE_STATE, every), (SectionState.MISPLACED, SectionState.REPEATED))
    upright = read_places(job, COARSE_INVERTED, every) == 0
    usable: BoolArray = read_placed(job, every) & upright & in_order
    return usable


def _sound(job: Job, z: int, places: np.ndarray) -> BoolArray:
    """Return the pixels (y, x) at source positions where the masks show tissue."""
    array = DAMAGE.open(job)
    step = max(1, 2 ** (contrast_mip(job) - job.mask.mip))
    codes = np.asarray(array[z, ::step, ::step])
    scale = float(2**job.mask.mip * step)
    known = np.isfinite(places).all(axis=0)
    y, x = (
        np.clip(np.floor(np.where(known, position, 0.0) / scale).astype(int), 0, count - 1)
        for position, count in zip(places, codes.shape, strict=True)
    )
    sound: BoolArray = known & (codes[y, x] == 0)
    return sound


def _describe(job: Job, table: ContrastTable) -> str:
    """Return what is done to grey values, in a sentence."""
    kept = np.flatnonzero(~table.matched).tolist()
    gain, shift = (values[table.matched] for values in (table.gain, table.changed_level - table.level))
    left = f"; {plural(len(kept), 'section')} left as they came: {listed_sections(job, kept)}" if kept else ""
    if not len(gain):
        return f"contrast unchanged: no two sections could be compared, so grey values stay as they came{left}"
    return (
        f"contrast of {plural(len(gain), 'section')} multiplied by {gain.min():.2f} to {gain.max():.2f}, grey level "
        f"shifted by {shift.min():.0f} to {shift.max():.0f}{left}"
    )
