"""Finding what was damaged after it had been written: a torn file, a flipped byte, a file that is gone.

Every chunk carries a checksum, so nothing is ever read through damage: what was made from a result before it was
damaged stands, and the damaged task alone is to be done again. Its ledger entry is then `failed`, cause `io`, with
`restore` set.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from ssem_dask.geometry.region import RegionSet
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages.files import find_damage, written_files
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.ledger import open_ledger, page_of
from ssem_dask.storage.location import delete
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.task import Cause, Outcome, Task, TaskReport

_NOT_BY_DAMAGE = (Cause.OUT_OF_MEMORY, Cause.GPU_OUT_OF_MEMORY, Cause.WORKER_LOST, Cause.TIMEOUT)


def verify(job: Job, *, stages: Sequence[Stage], executor: Executor) -> Iterator[TaskReport]:
    """Read again all that stands, and mark in the ledger what is damaged.

    Yields:
        The entry of each task that stood, as it is now.
    """
    for stage in stages:
        work = partial(verify_task, job=job, stage=_Footprints(stage))
        for tasks in _standing(stage, job):
            yield from executor.map(work, tasks)


def mend(failed: Iterable[TaskReport], job: Job, *, stages: Sequence[Stage], executor: Executor) -> list[TaskReport]:
    """Look whether tasks failed since what they read is damaged, and mark that as to be written again.

    Returns:
        Entries of the damaged tasks; empty if the failures have other reasons.
    """
    keys = {report.key for report in failed if report.cause not in _NOT_BY_DAMAGE}
    if not keys:
        return []
    reads = RegionSet()
    for stage in stages:
        if any(key.startswith(f"{stage.NAME}/") for key in keys):
            for generation in stage.generations(job):
                for task in generation:
                    if task.key in keys:
                        reads.add(stage.footprint(task).reads)
    damaged = []
    for stage in stages:
        work = partial(verify_task, job=job, stage=_Footprints(stage))
        for tasks in _standing(stage, job):
            read = (task for task in tasks if reads.meets(stage.footprint(task).writes))
            damaged += [report for report in executor.map(work, read) if report.restore]
    return damaged


def _standing(stage: Stage, job: Job) -> Iterator[Iterator[Task]]:
    """A stage's tasks that ended well with the run's configuration, generation by generation, a page at a time."""
    ledger = open_ledger(job.output)
    pages = set(ledger.pages(stage.NAME))

    def of_generation(generation: Iterable[Task]) -> Iterator[Task]:
        for page, tasks in groupby(generation, key=lambda task: page_of(task.key)):
            entries = ledger.entries(page) if page in pages else {}
            for task in tasks:
                entry = entries.get(task.key)
                if entry is not None and entry.outcome.stands and entry.digest == task.digest:
                    yield task

    for generation in stage.generations(job) if pages else ():
        yield of_generation(generation)


class _Footprints:
    """The footprints of a stage; goes to workers, where modules cannot go."""

    def __init__(self, stage: Stage) -> None:
        self.footprint = stage.footprint


def verify_task(task: Task, *, job: Job, stage: _Footprints) -> TaskReport:
    """Read what a task wrote; where it is damaged, mark that in the ledger. Returns the entry as it is now."""
    ledger = open_ledger(task.output)
    with retry_for(LONG_RETRY_S):
        entry = ledger.read(task.key)
        if entry is None or not entry.outcome.stands:
            return entry or TaskReport(key=task.key, digest=task.digest, outcome=Outcome.STALE)
        damage = find_damage(job, stage.footprint(task), files=entry.files)
        if not damage:
            return entry
        marked = replace(entry, outcome=Outcome.FAILED, cause=Cause.IO, message=damage, restore=True)
        ledger.replace_all([marked])
        # Writing a part of a shard reads it first, which would fail on the damage.
        for path in written_files(job, stage.footprint(task)):
            delete(job.url(path), recursive=False)
        return marked
