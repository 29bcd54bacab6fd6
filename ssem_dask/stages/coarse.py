"""Stage coarse: whole-section affines between neighbours, from thumbnails, then one affine per section.

Generation 1 compares each section with the ones before it; generation 2 solves for the sections' affines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.composition.affine_sections import enough_pairs, separate_affines
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.coarse import chain_sections, estimate_pair
from ssem_dask.registration.masks import tissue_mask
from ssem_dask.stages.job import SECTIONS_PER_COARSE_TASK, Estimate, Job
from ssem_dask.stages.sections import open_source, read_thumbnail, thumbnail_mip
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import create_coarse, open_coarse
from ssem_dask.task import Outcome, Result, Task

NAME = "coarse"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarsePairsTask(Task):
    """Compare each of some sections with its neighbours before it."""

    job: Job
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseSectionsTask(Task):
    """Solve for one affine per section."""

    job: Job


def prepare(job: Job) -> None:
    """Create `fields/coarse_pairs` (k, z, 2, 3), `fields/coarse_ratio` (k, z) and `fields/coarse` (z, 2, 3)."""
    k, z = job.coarse.neighbours, job.shape[0]
    depth = SECTIONS_PER_COARSE_TASK
    create_array(
        job.url("fields", "coarse_pairs"),
        shape=(k, z, 2, 3),
        axes=("k", "z", "row", "column"),
        chunks=(k, depth, 2, 3),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"direction": "pull", "unit": "px@mip0", "map": "fixed z → moving z-k"},
    )
    create_array(
        job.url("fields", "coarse_ratio"),
        shape=(k, z),
        axes=("k", "z"),
        chunks=(k, depth),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"meaning": "correlation peak over the second best; the confidence of coarse_pairs"},
    )
    create_coarse(job.url("fields", "coarse"), shape_mip0=job.shape)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Pairs of sections, then the sections."""
    depth = SECTIONS_PER_COARSE_TASK
    section = job.shape[1] * job.shape[2]
    yield (
        CoarsePairsTask(
            key=f"{NAME}/pairs-z{start:06d}",
            output=job.output,
            digest=job.digests[NAME],
            pixels=(min(start + depth, job.shape[0]) - start) * section,
            job=job,
            start=start,
            stop=min(start + depth, job.shape[0]),
        )
        for start in range(0, job.shape[0], depth)
    )
    yield [
        CoarseSectionsTask(key=f"{NAME}/sections", output=job.output, digest=job.digests[NAME], pixels=0, job=job),
    ]


def run(task: Task) -> Result:
    """Do one task of either generation."""
    if isinstance(task, CoarsePairsTask):
        return _run_pairs(task)
    assert isinstance(task, CoarseSectionsTask)
    return _run_sections(task)


def estimate(job: Job) -> Estimate:
    """Each task reads its sections and the neighbours before them, one band at a time."""
    z, y, x = job.shape
    tasks = ceil_div(z, SECTIONS_PER_COARSE_TASK)
    sections = z + (tasks - 1) * job.coarse.neighbours
    thumbnail = job.coarse.thumbnail**2 * 4
    return Estimate(
        tasks=tasks + 1,
        pixels=job.size,
        bytes_read=sections * y * x * job.info.dtype.itemsize,
        bytes_written=z * (job.coarse.neighbours * 7 + 6) * 8,
        files=2 * tasks + 1,
        memory=min(y * x, 1 << 26) * (4 + job.info.dtype.itemsize) + thumbnail * 1000,
    )


def _run_pairs(task: CoarsePairsTask) -> Result:
    job = task.job
    volume, mip = open_source(job), thumbnail_mip(job)
    first = max(0, task.start - job.coarse.neighbours)
    thumbnails = {z: read_thumbnail(volume, z=z, mip=mip) for z in range(first, task.stop)}
    masks = {z: tissue_mask(image) for z, image in thumbnails.items()}
    affines = np.full((job.coarse.neighbours, task.stop - task.start, 2, 3), np.nan)
    ratios = np.full(affines.shape[:2], np.nan)
    with torch.inference_mode():
        for z in range(task.start, task.stop):
            for k in range(1, min(z, job.coarse.neighbours) + 1):
                pair = estimate_pair(
                    thumbnails[z],
                    thumbnails[z - k],
                    fixed_mask=masks[z],
                    moving_mask=masks[z - k],
                    pixel=float(2**mip),
                    config=job.coarse,
                )
                affines[k - 1, z - task.start] = pair.affine
                ratios[k - 1, z - task.start] = pair.ratio
    open_array(job.url("fields", "coarse_pairs"), mode="r+")[:, task.start : task.stop] = affines
    open_array(job.url("fields", "coarse_ratio"), mode="r+")[:, task.start : task.stop] = ratios
    read = len(thumbnails) * job.shape[1] * job.shape[2] * job.info.dtype.itemsize
    return Result(bytes_read=read, bytes_written=affines.nbytes + ratios.nbytes)


def _run_sections(task: CoarseSectionsTask) -> Result:
    job = task.job
    affines = np.asarray(open_array(job.url("fields", "coarse_pairs"), mode="r")[:])
    ratios = np.asarray(open_array(job.url("fields", "coarse_ratio"), mode="r")[:])
    shape = job.shape[1], job.shape[2]
    result = chain_sections(affines, ratios, shape_yx=shape, config=job.coarse)
    sections, accepted = result.sections, result.accepted.astype(np.float64)
    if job.coarse.sections == "separate" and enough_pairs(accepted):
        sections = separate_affines(affines, accepted, shape_yx=shape, thickness=job.thickness).sections
    open_coarse(job.url("fields", "coarse"), mode="r+")[:] = sections
    if not result.bridged:
        return Result(bytes_written=result.sections.nbytes)
    names = ", ".join(str(z) for z in result.bridged[:20]) + (" …" if len(result.bridged) > 20 else "")
    return Result(
        outcome=Outcome.LOW_QUALITY,
        message=f"{len(result.bridged)} section(s) match no neighbour and were placed between theirs: {names}",
        bytes_written=result.sections.nbytes,
    )
