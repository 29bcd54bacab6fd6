"""Maps between sections far from each other, from thumbnails, for `[compose.far]`.

They are looked for about where the coarse pairs between lead, one after the other, so that tissue may move and sections
may turn slowly. Only rotation and scale are used: over many sections tissue moves, but as a whole it hardly turns or
swells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.composition.separation.anchored import FarPairs
from ssem_dask.field.affine import IDENTITY, compose_affine
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.initial import pair_start
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.stages.job import SECTIONS_PER_COARSE_TASK, Job
from ssem_dask.stages.source_sections import open_source, read_thumbnails, thumbnail_mip
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import open_coarse
from ssem_dask.task import Result, Task
from ssem_dask.types import Float64Array

NAME = "compose"
ARRAYS = "fields/far_pairs", "fields/far_ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class FarTask(Task):
    """Compare each of some sections with those far before it."""

    job: Job
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Leads:
    """Where a far section is to be looked for."""

    coarse: Float64Array
    """`(Z, 2, 3)`."""
    pairs: Float64Array
    """`(Z, 2, 3)`: z → z-1; NaN where it is not believed."""

    @classmethod
    def of(cls, job: Job) -> "_Leads":
        pairs = np.array(open_array(job.url("fields", "coarse_pairs"), mode="r")[0])
        ratios = np.nan_to_num(np.asarray(open_array(job.url("fields", "coarse_ratio"), mode="r")[0]))
        pairs[ratios < job.coarse.min_ratio] = np.nan
        return cls(np.asarray(open_coarse(job.url("fields", "coarse"))[:]), pairs)

    def start(self, z: int, k: int) -> Float64Array | None:
        """The map z → z-k by the pairs between; where one is not believed, by the sections' coarse maps."""
        through = IDENTITY
        for between in range(z, z - k, -1):
            step = self.pairs[between]
            if not np.isfinite(step).all():
                known = pair_start(self.coarse, z=between, k=1)
                if known is None:
                    return None
                step = known
            through = compose_affine(outer=step, inner=through)
        return through


def wanted(job: Job) -> bool:
    """Whether far pairs are used."""
    return bool(job.compose.far.distances)


def prepare(job: Job) -> None:
    """Create `fields/far_pairs` (distance, z, 2, 3) and `fields/far_ratio` (distance, z)."""
    if not wanted(job):
        return
    distances, z = list(job.compose.far.distances), job.shape[0]
    for name, columns, axes in (("far_pairs", (2, 3), ("row", "column")), ("far_ratio", (), ())):
        create_array(
            job.url("fields", name),
            shape=(len(distances), z, *columns),
            axes=("distance", "z", *axes),
            chunks=(len(distances), SECTIONS_PER_COARSE_TASK, *columns),
            dtype="float64",
            shards=None,
            fill_value=np.nan,
            attributes={"distances": distances, "direction": "pull", "unit": "px@mip0", "map": "fixed z → moving z-k"},
        )


def tasks(job: Job) -> Iterator[Task]:
    """A task for some sections each; none where far pairs are not used."""
    depth, z, (_, y, x) = SECTIONS_PER_COARSE_TASK, job.shape[0], job.shape
    for start in range(0, z if wanted(job) else 0, depth):
        stop = min(start + depth, z)
        yield FarTask(
            key=f"{NAME}/far-z{start:06d}",
            output=job.output,
            digest=job.digests[NAME],
            pixels=(stop - start) * y * x,
            job=job,
            start=start,
            stop=stop,
        )


def run(task: FarTask) -> Result:
    """Estimate the pairs of the task's sections."""
    job, distances = task.job, task.job.compose.far.distances
    volume, mip = open_source(job), thumbnail_mip(job)
    leads = _Leads.of(job)
    affines = np.full((len(distances), task.stop - task.start, 2, 3), np.nan)
    ratios = np.full(affines.shape[:2], np.nan)
    read = 0

    def section(z: int) -> CoarseSection:
        (thumbnail,) = read_thumbnails(volume, sections=range(z, z + 1), mip=mip)
        return CoarseSection(thumbnail, mask=tissue_mask(thumbnail), config=job.coarse)

    with torch.inference_mode():
        for z in range(task.start, task.stop):
            fixed = section(z)
            before = [(i, k) for i, k in enumerate(distances) if k <= z]
            read += 1 + len(before)
            for i, k in before:
                pair = estimate_pair(fixed=fixed, moving=section(z - k), pixel=float(2**mip), start=leads.start(z, k))
                affines[i, z - task.start], ratios[i, z - task.start] = pair.affine, pair.ratio
    open_array(job.url("fields", "far_pairs"), mode="r+")[:, task.start : task.stop] = affines
    open_array(job.url("fields", "far_ratio"), mode="r+")[:, task.start : task.stop] = ratios
    seen = read * job.shape[1] * job.shape[2]
    return Result(bytes_read=job.source_bytes(seen, mip=mip), bytes_written=affines.nbytes + ratios.nbytes)


def footprint(task: FarTask) -> Footprint:
    """Sections and those far before them."""
    job, far = task.job, max(task.job.compose.far.distances)
    return Footprint(
        reads=(
            job.sections("source", task.start - far, task.stop),
            *(job.sections(f"fields/{name}") for name in ("coarse", "coarse_pairs", "coarse_ratio")),
        ),
        writes=tuple(job.sections(name, task.start, task.stop) for name in ARRAYS),
    )


def with_far(job: Job, estimate: Estimate) -> Estimate:
    """The estimate of a method, and what far pairs add to it."""
    if not wanted(job):
        return estimate
    z, y, x = job.shape
    count, blocks = len(job.compose.far.distances), ceil_div(z, SECTIONS_PER_COARSE_TASK)
    return Estimate(
        tasks=estimate.tasks + blocks,
        pixels=estimate.pixels + z * y * x,
        bytes_read=estimate.bytes_read + job.source_bytes((1 + count) * z * y * x, mip=thumbnail_mip(job)),
        bytes_written=estimate.bytes_written + count * z * 7 * 8,
        files=estimate.files + 2 * blocks,
        memory=max(estimate.memory, min(y * x, 1 << 26) * (4 + job.info.dtype.itemsize)),
    )


def read_far_pairs(job: Job) -> FarPairs | None:
    """The pairs that stand out from chance; None where there are none."""
    if not wanted(job):
        return None
    affines = np.asarray(open_array(job.url("fields", "far_pairs"), mode="r")[:])
    ratios = np.nan_to_num(np.asarray(open_array(job.url("fields", "far_ratio"), mode="r")[:]))
    known = np.isfinite(affines).all(axis=(2, 3)) & (ratios >= job.coarse.min_ratio)
    i, z = np.nonzero(known)
    if not len(z):
        return None
    return FarPairs(z=z, step=np.asarray(job.compose.far.distances)[i], affines=affines[i, z])
