"""Stage compose: from pair fields to one field per section, `fields/section`, by the method of the configuration."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.compose import chain_tasks as compose_chain
from ssem_dask.stages.compose import compose_footprint
from ssem_dask.stages.compose import far_pairs as compose_far
from ssem_dask.stages.compose import relax_planes as compose_relax
from ssem_dask.stages.compose import relax_tiles as compose_wide
from ssem_dask.stages.compose import statistics as relax_fit
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Estimate
from ssem_dask.task import Result, Task

NAME = "compose"


class _Method(Protocol):
    """A module that composes."""

    def prepare(self, job: Job) -> None: ...
    def generations(self, job: Job) -> Iterator[Iterable[Task]]: ...
    def estimate(self, job: Job) -> Estimate: ...


class _Relax(_Method, Protocol):
    """One that composes by `relax`, sections of some width."""

    def fit_window(self, task: relax_fit.WindowFitTask) -> Result: ...
    def conclude(self, job: Job) -> Result: ...


def prepare(job: Job) -> None:
    """Create the arrays of the method."""
    _method(job).prepare(job)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """The tasks of the method."""
    yield from _method(job).generations(job)


def run(task: Task) -> Result:
    """Do one task of either method."""
    if isinstance(task, (compose_far.FarTask, *relax_fit.FIT_TASKS)):
        with torch.inference_mode():
            return _run_for_all(task)
    if isinstance(task, compose_relax.RELAX_TASKS):
        return compose_relax.run(task)
    if isinstance(task, compose_wide.WIDE_TASKS):
        return compose_wide.run(task)
    return compose_chain.run(task)


def footprint(task: Task) -> Footprint:
    """What a task of either method reads and writes."""
    return compose_footprint.footprint(task)


def estimate(job: Job) -> Estimate:
    """What the method costs."""
    return _method(job).estimate(job)


def _method(job: Job) -> _Method:
    return compose_chain if job.compose.method == "chain" else _relax(job)


def _relax(job: Job) -> _Relax:
    """Of method `relax` what suits the width of the sections."""
    return compose_wide if compose_wide.factor_of(job) > 1 else compose_relax


def _run_for_all(task: Task) -> Result:
    """Do a task of those that sections of any width have."""
    if isinstance(task, compose_far.FarTask):
        return compose_far.run(task)
    if isinstance(task, relax_fit.AffinesTask):
        return relax_fit.run_affines(task)
    if isinstance(task, relax_fit.WindowFitTask):
        return _relax(task.job).fit_window(task)
    assert isinstance(task, relax_fit.FitTask)
    return _relax(task.job).conclude(task.job)
