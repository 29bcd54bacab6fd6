"""Stage compose: from pair fields to one field per section, `fields/section`, by the method of the configuration."""

from collections.abc import Iterable, Iterator

import torch

from ssem_dask.geometry.region import Footprint
from ssem_dask.stages import compose_chain, compose_far, compose_footprint, compose_relax, compose_wide, relax_fit
from ssem_dask.stages.job import Estimate, Job
from ssem_dask.task import Result, Task

NAME = "compose"


def prepare(job: Job) -> None:
    """Create the arrays of the method."""
    if job.compose.method == "chain":
        compose_chain.prepare(job)
    elif compose_wide.factor_of(job) > 1:
        compose_wide.prepare(job)
    else:
        compose_relax.prepare(job)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """The tasks of the method."""
    if job.compose.method == "chain":
        yield from compose_chain.generations(job)
    elif compose_wide.factor_of(job) > 1:
        yield from compose_wide.generations(job)
    else:
        yield from compose_relax.generations(job)


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


def _run_for_all(task: Task) -> Result:
    """Do a task of those that sections of any width have."""
    if isinstance(task, compose_far.FarTask):
        return compose_far.run(task)
    if isinstance(task, relax_fit.AffinesTask):
        return relax_fit.run_affines(task)
    if isinstance(task, relax_fit.WindowFitTask):
        wide = compose_wide.factor_of(task.job) > 1
        return compose_wide.fit_window(task) if wide else compose_relax.fit_window(task)
    assert isinstance(task, relax_fit.FitTask)
    return compose_wide.conclude(task.job) if compose_wide.factor_of(task.job) > 1 else compose_relax.conclude(task.job)


def footprint(task: Task) -> Footprint:
    """What a task of either method reads and writes."""
    return compose_footprint.footprint(task)


def estimate(job: Job) -> Estimate:
    """What the method costs."""
    if job.compose.method == "chain":
        return compose_chain.estimate(job)
    return compose_wide.estimate(job) if compose_wide.factor_of(job) > 1 else compose_relax.estimate(job)
