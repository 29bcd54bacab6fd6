"""Stage compose: from pair fields to one field per section, `fields/section`, by the method of the configuration."""

from collections.abc import Iterable, Iterator

from ssem_dask.geometry.region import Footprint
from ssem_dask.stages import compose_chain, compose_footprint, compose_relax, compose_wide
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
    if job.compose.method == "chain":
        return compose_chain.estimate(job)
    return compose_wide.estimate(job) if compose_wide.factor_of(job) > 1 else compose_relax.estimate(job)
