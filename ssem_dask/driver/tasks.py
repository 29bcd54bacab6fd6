"""Run the pending tasks of one stage, or of any other sequence of task generations.

`ssem_dask.task` defines when a task is done. Every other task is pending, except failed tasks that the user did not
select, if the user selected any. The entries of one ledger page are held at a time, however many tasks there are.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from ssem_dask.config.schema import cluster_settings
from ssem_dask.driver.run_status import Summary
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.events import Observer, SilentObserver, StageStarted
from ssem_dask.runtime.execute import execute
from ssem_dask.runtime.executor import Executor
from ssem_dask.runtime.pages import PageWriter
from ssem_dask.runtime.progress import PublishingObserver
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage.ledger import Ledger, open_ledger, page_of
from ssem_dask.task import Outcome, Task, TaskReport, stage_part


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """The tasks of one stage, pending or done, and their cost."""

    name: str
    generations: Iterable[Iterable[Task]]
    """Sets of tasks: those of one set are independent, and need the sets before."""
    estimate: Estimate
    digests: Collection[str]
    """Digests that the ledger entries of done tasks carry, each that of its task, without the part of fixes; one,
    unless the tasks differ in what they read."""


class PlannedWork(Protocol):
    """Tasks whose size is known before they run."""

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that runs the largest task, its process included."""

    @property
    def gpu_memory(self) -> int:
        """Peak bytes of a GPU that the largest task takes."""


def open_cluster_for(
    work: PlannedWork | None,
    *,
    cluster: str | None,
    workers: int | None,
    table: ClusterConfig | None = None,
    note: Callable[[str], None] = lambda _message: None,
) -> Executor:
    """Start or join the cluster that runs some work; use it as a context manager, which closes it.

    Args:
        work: work whose largest task each worker must be able to hold; None if its size is unknown.
        cluster: a name, an address, or a TOML file with a `[cluster]` table; None: as `table` says.
        workers: number of workers; None: as `table` says.
        table: `[cluster]` of the run's configuration; None: the defaults.
        note: callback for user-facing messages about the cluster.

    Raises:
        ConfigError: see `cluster_settings` and `open_cluster`.
    """
    settings = cluster_settings(cluster, workers=workers, table=table or ClusterConfig())
    return open_cluster(
        settings.name,
        workers=settings.workers,
        settings=settings,
        task_memory=0 if work is None else work.worker_memory,
        task_gpu_memory=0 if work is None else work.gpu_memory,
        note=note,
    )


def run_on_cluster(
    run: Callable[..., Summary],
    work: PlannedWork,
    *,
    cluster: str,
    workers: int | None,
    observer: Observer | None,
    table: ClusterConfig | None = None,
) -> Summary:
    """Open a cluster, call `run(executor=…, observer=…)`, and close the cluster.

    Args:
        run: runs the tasks of `work`.
        work: as in `open_cluster_for`.
        cluster: as in `align`.
        workers: as in `align`.
        observer: notified of events; None: nobody is.
        table: as in `open_cluster_for`.

    Raises:
        ConfigError: the cluster is unknown, or its workers are too small.
    """
    with open_cluster_for(work, cluster=cluster, workers=workers, table=table) as executor:
        return run(executor=executor, observer=observer or SilentObserver())


def run_generations(
    stage: StageWork,
    *,
    summary: Summary,
    executor: Executor,
    observer: Observer,
    overrides: Callable[[Task], Task] | None = None,
    allow_missing: bool = False,
    allowed_failures: frozenset[str] | None = None,
    is_live: Callable[[str], bool] = lambda _page: True,
) -> None:
    """Run the pending tasks of one stage and count them in `summary`; stop after a generation with a failure.

    Args:
        stage: tasks of the stage.
        summary: summary of the run so far; it is changed.
        executor: runs the tasks.
        observer: receives events.
        overrides: gives a task the configuration that its ledger entry asks for; None: no entry asks for any.
        allow_missing: continue after a generation in which a task failed.
        allowed_failures: keys of failed tasks that may run again; None: all may.
        is_live: whether the tasks of a page of the ledger are looked at; those of any other page are known to be done.
    """
    observer = PublishingObserver(observer, executor)
    ledger = open_ledger(summary.output)
    pages = set(filter(is_live, ledger.pages(stage.name)))
    summary.counts.setdefault(stage.name, {})
    done_tasks, done_pixels = 0, 0
    for report in (report for page in sorted(pages) for report in ledger.entries(page).values()):
        if report is not None and stage_part(report.digest) in stage.digests and _is_kept(report, allowed_failures):
            summary.add(report)
            done_tasks, done_pixels = done_tasks + 1, done_pixels + report.pixels
    observer.stage_started(
        StageStarted(
            stage=stage.name,
            tasks=stage.estimate.tasks,
            pixels=stage.estimate.pixels,
            done_tasks=done_tasks,
            done_pixels=done_pixels,
        )
    )
    writer = PageWriter(ledger)
    failed = set[str]()  # of the generations so far; what a later one left does not stop an earlier one
    for generation in stage.generations:
        live = _live_pages(generation, is_live)
        pending = _pending(live, ledger, pages, writer, allowed_failures=allowed_failures, failed=failed)
        for report in executor.map(execute, pending if overrides is None else map(overrides, pending)):
            writer.task_ended(report)
            observer.task_ended(report)
            summary.add(report)
            if report.outcome is Outcome.FAILED:
                failed.add(report.key)
        if failed and not allow_missing:
            break
    if summary.failed:
        summary.state = "incomplete"
    observer.stage_ended(stage.name)


def _is_kept(report: TaskReport, allowed_failures: frozenset[str] | None) -> bool:
    """Return whether a task with a current entry is not run: it is done, or it failed and was not selected."""
    if report.outcome is Outcome.FAILED:
        return allowed_failures is not None and report.key not in allowed_failures
    return report.outcome.is_done


def _live_pages(generation: Iterable[Task], is_live: Callable[[str], bool]) -> Iterator[tuple[str, Iterable[Task]]]:
    """Yield the pages of a generation that are looked at, each with its tasks; asks once per page, not per task."""
    for page, tasks in groupby(generation, key=lambda task: page_of(task.key)):
        if is_live(page):
            yield page, tasks


def _pending(
    live: Iterable[tuple[str, Iterable[Task]]],
    ledger: Ledger,
    pages: set[str],
    writer: PageWriter,
    *,
    allowed_failures: frozenset[str] | None,
    failed: set[str],
) -> Iterator[Task]:
    """Yield the pending tasks of a generation; hold the entries of one page of the ledger at a time.

    `live` has the generation's tasks by page. Keys of failed tasks that are not run again are added to `failed`.
    """
    for page, tasks_of_page in live:
        if page not in pages:
            writer.begin_page(page, [])
            for task in tasks_of_page:
                writer.task_submitted(page)
                yield task
            writer.end_page(page)
            continue
        complete = ledger.complete_page(page)
        stored = ledger.loose_entries(page).values() if complete is None else complete
        entries = {report.key: report for report in stored if report is not None}
        kept, pending = [], []
        for task in tasks_of_page:
            entry = entries.get(task.key)
            if entry is not None and entry.digest != task.digest:
                entry = None  # outdated
            if entry is not None and _is_kept(entry, allowed_failures):
                kept.append(entry)
                if entry.outcome is Outcome.FAILED:
                    failed.add(entry.key)
            else:
                pending.append(task if entry is None else _retry(task, entry))
        if complete is not None:
            if not pending:
                continue
            # The page becomes loose entries again, so that each task can replace its own.
            ledger.forget_page(page)
        writer.begin_page(page, kept)
        for task in pending:
            writer.task_submitted(page)
            yield task
        writer.end_page(page)


def _retry(task: Task, entry: TaskReport) -> Task:
    failed = entry.outcome is Outcome.FAILED and not entry.restore
    return replace(task, attempt=entry.attempts + 1 if failed else 1, changes=tuple(sorted(entry.changes.items())))
