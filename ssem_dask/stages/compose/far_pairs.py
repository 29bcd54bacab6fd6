"""Maps between sections far from each other, from thumbnails, for `[compose.far]`.

The search starts from the composition of the coarse pairs between, so that tissue may move and sections may turn
slowly. Only rotation and scale are used: over many sections tissue moves, but as a whole it hardly turns or swells.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ssem_dask.composition.separation.anchor_observations import FarPairs
from ssem_dask.field.affine import IDENTITY, compose_affine
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.initial import pair_between
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_PAIRS, COARSE_RATIO
from ssem_dask.stages.array_rows.compose_arrays import FAR_PAIRS, FAR_RATIO
from ssem_dask.stages.compose.method import compose_fields
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK, Job
from ssem_dask.stages.source_sections import open_source, read_thumbnails, thumbnail_mip
from ssem_dask.stages.stage import Estimate, JobTask
from ssem_dask.task import Result
from ssem_dask.types import Float64Array

FAR_ARRAYS = FAR_PAIRS, FAR_RATIO


@dataclass(frozen=True, slots=True, kw_only=True)
class FarTask(JobTask):
    """Comparison of some sections with those far before them."""

    start: int
    stop: int

    def run(self) -> Result:
        """Estimate the pairs of the task's sections."""
        job, distances = self.job, self.job.compose.far.distances
        volume, mip = open_source(job), thumbnail_mip(job)
        starts = _SearchStarts.read(job)
        affines = np.full((len(distances), self.stop - self.start, 2, 3), np.nan)
        ratios = np.full(affines.shape[:2], np.nan)
        sections_read = 0

        def section(z: int) -> CoarseSection:
            (thumbnail,) = read_thumbnails(volume, sections=range(z, z + 1), mip=mip)
            return CoarseSection(thumbnail, mask=tissue_mask(thumbnail), config=job.coarse)

        with torch.inference_mode():
            for z in range(self.start, self.stop):
                fixed = section(z)
                before = [(i, k) for i, k in enumerate(distances) if k <= z]
                sections_read += 1 + len(before)
                for i, k in before:
                    pair = estimate_pair(
                        fixed=fixed, moving=section(z - k), pixel=float(2**mip), start=starts.predicted(z, k)
                    )
                    affines[i, z - self.start], ratios[i, z - self.start] = pair.affine, pair.ratio
        sections = range(self.start, self.stop)
        written = FAR_PAIRS.write(job, affines, z=sections) + FAR_RATIO.write(job, ratios, z=sections)
        return Result(bytes_read=job.source_bytes(sections_read * job.section_pixels, mip=mip), bytes_written=written)

    def footprint(self) -> Footprint:
        """Read sections and those far before them, with all coarse affines; write the far pairs."""
        job, far = self.job, max(self.job.compose.far.distances)
        return Footprint(
            reads=(
                *job.source_regions(self.start - far, self.stop),
                *(array.region(job) for array in (COARSE, COARSE_PAIRS, COARSE_RATIO)),
            ),
            writes=tuple(array.region(job, self.start, self.stop) for array in FAR_ARRAYS),
        )


@dataclass(frozen=True, slots=True)
class _SearchStarts:
    """The maps between neighbours that predict where a far section is found."""

    coarse: Float64Array
    """Coarse affines `(Z, 2, 3)`."""
    pairs: Float64Array
    """Pair affines `(Z, 2, 3)`, z → z-1; NaN if a pair is not accepted."""

    @classmethod
    def read(cls, job: Job) -> "_SearchStarts":
        pairs = np.array(COARSE_PAIRS.read(job, k=0))
        ratios = np.nan_to_num(COARSE_RATIO.read(job, k=0))
        pairs[ratios < job.coarse.min_ratio] = np.nan
        return cls(COARSE.read(job), pairs)

    def predicted(self, z: int, k: int) -> Float64Array:
        """Compose the map z → z-k from the pairs between, or from coarse affines if a pair is not accepted."""
        through = IDENTITY
        for between in range(z, z - k, -1):
            step = self.pairs[between]
            if not np.isfinite(step).all():
                step = pair_between(self.coarse, z=between, k=1)
            through = compose_affine(outer=step, inner=through)
        return through


def uses_far_pairs(job: Job) -> bool:
    """Return whether far pairs are used."""
    return bool(job.compose.far.distances)


def prepare_far(job: Job) -> None:
    """Create the arrays of far pairs if they are used."""
    for array in FAR_ARRAYS if uses_far_pairs(job) else ():
        array.create(job)


def far_tasks(job: Job) -> Iterator[JobTask]:
    """Yield a task per few sections; none if far pairs are not used."""
    depth, z = SECTIONS_PER_THUMBNAIL_TASK, job.shape[0]
    for start in range(0, z if uses_far_pairs(job) else 0, depth):
        stop = min(start + depth, z)
        yield FarTask(
            **compose_fields(job, f"far-z{start:06d}", pixels=(stop - start) * job.section_pixels),
            start=start,
            stop=stop,
        )


def with_far(job: Job, estimate: Estimate) -> Estimate:
    """Return the estimate of a method with the cost of far pairs added."""
    if not uses_far_pairs(job):
        return estimate
    z, y, x = job.shape
    count, tasks = len(job.compose.far.distances), ceil_div(z, SECTIONS_PER_THUMBNAIL_TASK)
    return replace(
        estimate,
        tasks=estimate.tasks + tasks,
        pixels=estimate.pixels + z * y * x,
        bytes_read=estimate.bytes_read + job.source_bytes((1 + count) * z * y * x, mip=thumbnail_mip(job)),
        bytes_written=estimate.bytes_written + count * z * 7 * 8,
        files=estimate.files + 2 * tasks,
        memory=max(estimate.memory, min(y * x, 1 << 26) * (4 + job.info.dtype.itemsize)),
    )


def read_far_pairs(job: Job) -> FarPairs | None:
    """Return the pairs that stand out from chance; None if there are none."""
    if not uses_far_pairs(job):
        return None
    affines = FAR_PAIRS.read(job)
    ratios = np.nan_to_num(FAR_RATIO.read(job))
    known = np.isfinite(affines).all(axis=(2, 3)) & (ratios >= job.coarse.min_ratio)
    i, z = np.nonzero(known)
    if not len(z):
        return None
    return FarPairs(z=z, step=np.asarray(job.compose.far.distances)[i], affines=affines[i, z])
