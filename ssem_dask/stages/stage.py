"""The interface of a stage, and what it costs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.job import Job
from ssem_dask.task import Result, Task

TASK_OVERHEAD = 8 << 20
"""Bytes that the first task of a stage takes whatever it holds: caches, threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a stage is going to cost."""

    tasks: int
    pixels: int
    """Sum over the tasks of the source pixels (mip 0) they cover; the unit of the progress rate."""
    bytes_read: int
    bytes_written: int
    files: int
    memory: int
    """Peak bytes of one task, beyond what a worker's process holds before it. Of the source as if mip 0 were all there
    is: less where coarser levels are stored."""
    requests: int = 0
    """Chunks and files that its tasks ask the stores for, or send them; about."""
    gpu_memory: int = 0
    """Peak bytes of one task on a GPU, where its worker has one; 0: it uses none."""


class Stage(Protocol):
    """A verb of the pipeline; a module of this package is one."""

    NAME: str

    def prepare(self, job: Job) -> None:
        """Create the arrays that the stage writes; does nothing where they exist."""
        ...

    def generations(self, job: Job) -> Iterator[Iterable[Task]]:
        """Sets of tasks: those of one set are independent, and need the sets before."""
        ...

    def run(self, task: Task) -> Result:
        """Do one task: read, compute, write."""
        ...

    def footprint(self, task: Task) -> Footprint:
        """What a task reads and writes, of the run's arrays and of the source; it may name more than it reads, never
        less.
        """
        ...

    def estimate(self, job: Job) -> Estimate:
        """Count tasks, bytes, files and memory without touching anything."""
        ...
