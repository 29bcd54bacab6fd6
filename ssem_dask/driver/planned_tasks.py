"""The tasks of a stage, page by page of the ledger."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.ledger import Ledger, open_ledger, page_of
from ssem_dask.task import Task, TaskReport, stage_part


def pages_of(generation: Iterable[Task]) -> Iterator[tuple[str, list[Task]]]:
    """Yield the pages of a generation with their tasks; holds one page."""
    for page, tasks in groupby(generation, key=lambda task: page_of(task.key)):
        yield page, list(tasks)


def done_tasks(stage: Stage, job: Job) -> Iterator[Iterator[tuple[Task, TaskReport]]]:
    """Yield, per generation, a stage's tasks that ended well with the run's configuration, and their entries."""
    ledger = open_ledger(job.output)
    pages = set(ledger.pages(stage.name))

    def done_in(generation: Iterable[Task]) -> Iterator[tuple[Task, TaskReport]]:
        for page, tasks in pages_of(generation):
            entries = ledger.entries(page) if page in pages else {}
            for task in tasks:
                entry = entries.get(task.key)
                if entry is not None and entry.outcome.is_done and entry.digest == task.digest:
                    yield task, entry

    for generation in stage.generations(job) if pages else ():
        yield done_in(generation)


def any_done(ledger: Ledger, stage: str, *, digest: str) -> bool:
    """Return whether any task of a stage is done."""
    return any(stage_part(report.digest) == digest and report.outcome.is_done for report in ledger.reports(stage))
