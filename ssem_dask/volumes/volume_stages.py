"""Work on a volume outside a run: a sequence of stages whose ledger and recorded state are beside the written volume.

So, like a run, an interrupted warp or export resumes, and two drivers cannot write one volume at the same time. What
the volume is made of is compared with its state at planning (`volumes.origins`) before it counts as complete.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ssem_dask.driver.run_status import Summary, run_status
from ssem_dask.driver.tasks import StageWork, run_generations
from ssem_dask.errors import LeaseLostError
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor, dashboard_message
from ssem_dask.runtime.memory import PROCESS_BYTES
from ssem_dask.storage.fence import confirm_fence
from ssem_dask.storage.late_writes import mark_overwritten
from ssem_dask.storage.ledger import Ledger, open_ledger
from ssem_dask.task import Outcome, TaskReport
from ssem_dask.units import plural
from ssem_dask.volumes.origins import Origins


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWork:
    """All stages that write one volume, and how they begin and end."""

    output: str
    """URL of the written volume, which holds the ledger."""
    stages: tuple[StageWork, ...]
    origins: Origins
    """Volumes and arrays that the volume is made of."""
    check: Callable[[], object]
    """Raises OutputError if the output holds something else."""
    prepare: Callable[[], None]
    """Creates the arrays; does nothing if they exist."""
    record_state: Callable[[str], None]
    """Records `running`, `incomplete` or `complete` at the output."""
    finish: Callable[[], None] = lambda: None
    """Runs after the last task of a complete volume, before its state is recorded."""

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that runs the largest task, its process included."""
        return PROCESS_BYTES + max(stage.estimate.memory for stage in self.stages)

    @property
    def gpu_memory(self) -> int:
        """Peak bytes of a GPU that the largest task takes."""
        return max(stage.estimate.gpu_memory for stage in self.stages)


def run_stages(work: VolumeWork, *, executor: Executor, observer: Observer) -> Summary:
    """Run the pending tasks of all stages; stops after a generation in which a task failed."""
    dashboard = dashboard_message(executor)
    if dashboard is not None:
        observer.note(dashboard)
    summary = Summary(output=work.output, state="complete")
    ledger = open_ledger(work.output)
    work.check()  # before the lease: nothing is changed in what is not ours
    with exclusive_driver(work.output, executor) as guarded:
        work.check()
        work.record_state("running")
        try:
            _mark_late(work, ledger)
            _mark_outdated(work, observer)
            work.prepare()
            for stage in work.stages:
                run_generations(stage, summary=summary, executor=guarded, observer=observer)
                if summary.failed:
                    break
            late = _mark_late(work, ledger)
            for key in late:
                observer.note(f"{key}: a task of an earlier driver ended late and may have overwritten it.")
            if late:
                summary = run_status(work.output)
                summary.state = "incomplete"
            summary.reasons = _reasons(work)
            if summary.reasons:
                summary.state = "incomplete"
            for reason in summary.reasons:
                observer.note(reason)
            if summary.state == "complete":
                work.finish()
        except LeaseLostError:
            raise  # another driver writes the volume now, and records its state
        except BaseException:
            confirm_fence()  # an error because the output was removed is reported as that
            work.record_state("incomplete")
            raise
        work.record_state(summary.state)
    return summary


def _mark_outdated(work: VolumeWork, observer: Observer) -> None:
    """Mark the entries of tasks that read something else now, those of the last stage first.

    Otherwise a result that is half rewritten when its task is killed would count as done, if the source came back.
    """
    count = 0
    for stage in reversed(work.stages):
        count += _mark_stale(work.output, stage.name, lambda digest: digest not in stage.digests)  # noqa: B023
    if count:
        observer.note(f"{plural(count, 'result')} rest on an earlier content of what they were made of: made again.")


def _reasons(work: VolumeWork) -> list[str]:
    """Return a sentence per reason why the volume is incomplete though its tasks ended well.

    Results that were made of what changed meanwhile are marked as stale, since it is unknown which content they read.
    """
    sentences, changed = work.origins.changes()
    for stage in reversed(work.stages if changed else ()):
        _mark_stale(work.output, stage.name, changed.__contains__)
    return [*work.origins.missing(), *sentences]


def _mark_stale(output: str, stage: str, is_stale: Callable[[str], bool]) -> int:
    """Mark the entries of a stage that ended well with such a digest as stale; return their number."""
    ledger = open_ledger(output)
    count = 0

    def marked() -> Iterator[TaskReport]:
        nonlocal count
        for report in ledger.reports(stage):
            if report.outcome.is_done and is_stale(report.digest):
                count += 1
                yield replace(report, outcome=Outcome.STALE)

    ledger.replace_all(marked())
    return count


def _mark_late(work: VolumeWork, ledger: Ledger) -> frozenset[str]:
    """Mark results that late tasks of an earlier driver have overwritten, and all that may be made from these results.

    Returns:
        Keys of the overwritten tasks.
    """
    late = mark_overwritten(ledger)
    if late:
        # The first stage reads only the source. Those after it make levels from levels.
        for stage in reversed(work.stages[1:]):
            _mark_stale(work.output, stage.name, lambda _digest: True)
    return late
