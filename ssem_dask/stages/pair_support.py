"""Support of pairs: how much of a section each pair field determines. Sections without any support have no place.

Stage render writes it before it warps, since what it writes for a section without a place is the user's choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.diagnosis.tied_sections import placed_sections
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import CONFIDENCE, SUPPORT, SUPPORT_SECTIONS
from ssem_dask.stages.stage import JobTask, Stage
from ssem_dask.task import Result
from ssem_dask.types import BoolArray

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
            **stage.task_fields(job, f"support-z{start:06d}"),
            start=start,
            stop=min(start + SUPPORT_SECTIONS, job.shape[0]),
        )


def read_placed(job: Job) -> BoolArray:
    """Return which sections (z,) have a place."""
    return placed_sections(np.nan_to_num(SUPPORT.read(job)).astype(np.float64))
