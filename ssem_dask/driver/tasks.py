"""What is left to do of one stage, or of any other sequence of generations of tasks.

A task is done if its ledger entry carries the digest of the current configuration and stands (it did not fail);
everything else is to do, but for tasks that failed and were not chosen, where the user chose some. Entries are held a
page of the ledger at a time, however many tasks there are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby

from ssem_dask.driver.run_status import Summary
from ssem_dask.runtime.events import Observer, StageStarted
from ssem_dask.runtime.execute import execute
from ssem_dask.runtime.executor import Executor
from ssem_dask.runtime.pages import PageWriter
from ssem_dask.runtime.progress import PublishingObserver
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage.ledger import Ledger, open_ledger, page_of
from ssem_dask.task import Outcome, Result, Task, TaskReport


def run_generations(
    name: str,
    generations: Iterable[Iterable[Task]],
    *,
    work: Callable[[Task], Result],
    estimate: Estimate,
    digest: str,
    summary: Summary,
    executor: Executor,
    observer: Observer,
    files: Callable[[Task], dict[str, int]] | None = None,
    tailor: Callable[[Task], Task] | None = None,
    allow_missing: bool = False,
    only: frozenset[str] | None = None,
) -> None:
    """Do what is left to do of one stage, and count it in `summary`; stops after a generation in which a task failed.

    Args:
        name: of the stage.
        generations: its tasks.
        work: does one of them.
        estimate: what the stage is going to cost.
        digest: that its tasks' ledger entries must carry to count as done.
        summary: of the run so far; changed.
        executor: runs the tasks.
        observer: told what happens.
        files: tells which files a task has written, see `execute`.
        tailor: gives a task the configuration that its ledger entry asks for; None: no entry asks for any.
        allow_missing: go on after a generation in which a task failed.
        only: of the tasks that failed, these alone are done again; None: all.
    """
    observer = PublishingObserver(observer, executor)
    ledger = open_ledger(summary.output)
    pages = set(ledger.pages(name))
    summary.counts.setdefault(name, {})
    done_tasks, done_pixels = 0, 0
    for report in ledger.reports(name) if pages else ():
        if report.digest == digest and _is_kept(report, only):
            summary.add(report)
            done_tasks, done_pixels = done_tasks + 1, done_pixels + report.pixels
    observer.stage_started(
        StageStarted(
            stage=name,
            tasks=estimate.tasks,
            pixels=estimate.pixels,
            done_tasks=done_tasks,
            done_pixels=done_pixels,
        )
    )
    writer = PageWriter(ledger)
    for generation in generations:
        left = _left(generation, ledger, pages, writer, digest=digest, only=only)
        given = left if tailor is None else map(tailor, left)
        for report in executor.map(partial(execute, run=work, files=files), given):
            writer.task_ended(report)
            observer.task_ended(report)
            summary.add(report)
        if summary.failed:
            summary.state = "incomplete"
            if not allow_missing:
                break
    observer.stage_ended(name)


def _is_kept(report: TaskReport, only: frozenset[str] | None) -> bool:
    """Whether a task whose entry is current is not run: it is done, or it failed and was not chosen."""
    if report.outcome is Outcome.FAILED:
        return only is not None and report.key not in only
    return report.outcome.stands


def _left(
    tasks: Iterable[Task],
    ledger: Ledger,
    pages: set[str],
    writer: PageWriter,
    *,
    digest: str,
    only: frozenset[str] | None,
) -> Iterator[Task]:
    """The tasks of a generation that are to be done; holds the entries of one page of the ledger at a time."""
    for page, of_page in groupby(tasks, key=lambda task: page_of(task.key)):
        if page not in pages:
            writer.begin_page(page, [])
            for task in of_page:
                writer.task_submitted(page)
                yield task
            writer.end_page(page)
            continue
        complete = ledger.complete_page(page)
        found = ledger.loose_entries(page).values() if complete is None else complete
        entries = {report.key: report for report in found if report is not None and report.digest == digest}
        kept, left = [], []
        for task in of_page:
            entry = entries.get(task.key)
            if entry is not None and _is_kept(entry, only):
                kept.append(entry)
            else:
                left.append(task if entry is None else _once_more(task, entry))
        if complete is not None:
            if not left:
                continue
            ledger.forget_page(page)
        writer.begin_page(page, kept)
        for task in left:
            writer.task_submitted(page)
            yield task
        writer.end_page(page)


def _once_more(task: Task, entry: TaskReport) -> Task:
    failed = entry.outcome is Outcome.FAILED and not entry.restore
    return replace(task, attempt=entry.attempts + 1 if failed else 1, changes=tuple(sorted(entry.changes.items())))
