"""Support of pairs: how much of a section each pair field determines. Sections without any support have no place.

Stage render writes it before it warps, since what it writes for a section without a place is the user's choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.diagnosis.tied_sections import placed_sections
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, SUPPORT, SUPPORT_SECTIONS
from ssem_dask.stages.fix_clusters import FixCluster, clusters_at, fix_clusters
from ssem_dask.stages.fixed_rows import MergedPairs
from ssem_dask.stages.job import Job
from ssem_dask.stages.replaced_sections import support_rows
from ssem_dask.stages.stage import FIX_TASKS, JobTask, Stage
from ssem_dask.task import Result
from ssem_dask.types import BoolArray, Float64Array

_ROWS = 256
"""Rows of nodes that are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportTask(JobTask):
    """Support of the pairs of some sections."""

    start: int
    stop: int

    def run(self) -> Result:
        """Average the confidence of each pair over all nodes."""
        job, sections = self.job, range(self.start, self.stop)
        array = CONFIDENCE.open(job)
        rows = array.shape[2]
        total = np.zeros((*array.shape[:1], len(sections)))
        for first in range(0, rows, _ROWS):
            values = np.asarray(array[:, self.start : self.stop, first : first + _ROWS])
            total += np.nan_to_num(values).sum(axis=(2, 3), dtype=np.float64)
        support = (total / max(1, rows * array.shape[3])).astype(np.float32)
        written = SUPPORT.write(job, support, z=sections)
        return Result(bytes_read=total.size * rows * array.shape[3] * 4, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the confidences of its sections; write their support."""
        return Footprint(
            reads=(CONFIDENCE.region(self.job, self.start, self.stop),),
            writes=(SUPPORT.region(self.job, self.start, self.stop),),
        )


def support_tasks(stage: Stage, job: Job) -> Iterator[SupportTask]:
    """Yield the tasks of all sections."""
    for start in range(0, job.shape[0], SUPPORT_SECTIONS):
        yield SupportTask(
            **stage.task_fields(job, f"support-z{start:06d}", stop=start + SUPPORT_SECTIONS),
            start=start,
            stop=min(start + SUPPORT_SECTIONS, job.shape[0]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportFixesTask(JobTask):
    """Support of the pairs that one cluster of fixes has changed."""

    cluster: FixCluster

    def run(self) -> Result:
        """Average the confidence of each changed pair over all nodes."""
        job, read, written = self.job, 0, 0
        pairs = self.cluster.pairs(steps=job.register.neighbours, count=job.shape[0])
        for z in sorted({z for _, z in pairs}):
            support = np.zeros(job.register.neighbours, dtype=np.float32)
            for k in sorted(k for k, section in pairs if section == z):
                confidence = np.nan_to_num(FIXED[CONFIDENCE].read(job, k=k - 1, z=z))
                support[k - 1], read = confidence.mean(dtype=np.float64), read + confidence.nbytes
            written += FIXED[SUPPORT].write(job, support, z=z)
        return Result(bytes_read=read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the confidences of the changed pairs; write their support."""
        job = self.job
        sections = sorted({z for _, z in self.cluster.pairs(steps=job.register.neighbours, count=job.shape[0])})
        return Footprint(
            reads=tuple(FIXED[CONFIDENCE].region(job, z, z + 1) for z in sections),
            writes=tuple(FIXED[SUPPORT].region(job, z, z + 1) for z in sections),
        )


def support_fix_tasks(stage: Stage, job: Job) -> Iterator[SupportFixesTask]:
    """Yield the task of each cluster."""
    for cluster in fix_clusters(job):
        name = f"{FIX_TASKS}-support-z{cluster.sections.start:06d}"
        yield SupportFixesTask(**stage.task_fields(job, name, clusters=[cluster]), cluster=cluster)


def read_support(job: Job, sections: range) -> Float64Array:
    """Return the support `(K, Z)` of the pairs of some sections as fixes have changed it; 0 for all other sections."""
    near = MergedPairs.open(job, SUPPORT, clusters=clusters_at(job, sections))[
        slice(None), slice(sections.start, sections.stop)
    ]
    support = np.zeros((near.shape[0], job.shape[0]))
    support[:, sections.start : sections.stop] = np.nan_to_num(near)
    return support


def read_placed(job: Job, sections: range) -> BoolArray:
    """Return which sections (z,) have a place; it holds for some sections and those that they may be replaced by."""
    fit, near = support_rows(job, sections)
    placed = placed_sections(read_support(job, near), usual=np.nan_to_num(SUPPORT.read(job, z=fit)).astype(np.float64))
    placed[job.fixes.excluded(range(len(placed)))] = False
    return placed
