"""Comparison of the ledger with the plan of the run, and of its pages with their entries.

A page's file and the entries say the same, as long as nothing has damaged them and no late task has written over the
result of a newer one. Where they differ, the entry counts, since the process that wrote the data wrote it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ssem_dask.driver.planned_tasks import pages_of
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.ledger import Ledger, StoredPage
from ssem_dask.storage.location import delete, join
from ssem_dask.task import Cause, Outcome, Task, TaskReport


def check_ledger(job: Job, *, stages: Sequence[Stage], ledger: Ledger, complete: bool) -> Iterator[str]:
    """Compare pages, entries and plan; mark the tasks whose entries are damaged, so that they run again.

    Args:
        job: the run.
        stages: the stages that have tasks.
        ledger: ledger of the run.
        complete: whether the run has ended as complete, so that every task must have an entry that fits the plan, and
            every page a file.

    Yields:
        A sentence on each damaged file.
    """
    for stage in stages:
        pages = set(ledger.pages(stage.name))
        if not complete and not pages:
            continue
        for generation in stage.generations(job):
            for page, tasks in pages_of(generation):
                if complete or page in pages:
                    yield from _check_page(ledger, page, tasks, complete=complete)


def _check_page(ledger: Ledger, page: str, tasks: list[Task], *, complete: bool) -> Iterator[str]:
    stored = ledger.stored_page(page)
    forget = not stored.file_is_sound
    marked: list[TaskReport] = []
    for task in tasks:
        damage, entry = _entry_damage(task, stored, complete=complete)
        if damage:
            forget = True
            yield f"{ledger.entry_url(task.key)}: {damage}."
            if entry is not None:
                marked.append(replace(entry, outcome=Outcome.FAILED, cause=Cause.IO, message=f"Its entry {damage}."))
                for path in task.files():  # as in `integrity.verify_task`
                    delete(join(task.output, path), recursive=False)
    if not stored.file_is_sound:
        yield f"{ledger.page_url(page)}: cannot be read; it is written again from its entries."
    elif stored.in_file is None and complete and not forget:
        yield f"{ledger.page_url(page)}: is missing; it is written again from its entries."
    if forget:
        ledger.forget_page(page)
    ledger.replace_all(marked)


def _entry_damage(task: Task, stored: StoredPage, *, complete: bool) -> tuple[str, TaskReport | None]:
    """Return what is wrong with a task's entry, and the entry to mark as failed in its place; empty if nothing is."""
    entry = stored.entries.get(task.key)
    in_file = None if stored.in_file is None else stored.in_file.get(task.key)
    if entry is None:
        if task.key in stored.entries:
            damage = "cannot be read"
        elif complete or in_file is not None:
            damage = "is missing"
        else:
            return "", None  # the task has not ended
        if in_file is not None and in_file.outcome.is_done and in_file.digest == task.digest:
            return damage, replace(in_file, restore=True)  # nothing was made from other data than these
        return damage, TaskReport(key=task.key, digest=task.digest, outcome=Outcome.FAILED, pixels=task.pixels)
    if stored.in_file is not None and entry != in_file:
        return "differs from its page", None
    if complete and entry.digest != task.digest:
        return "was written with another configuration than the run has", None
    return "", None
