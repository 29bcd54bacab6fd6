"""Damage to files after they were written: a torn file, a flipped byte, a missing file.

Every chunk carries a checksum, so nothing is ever read through damage. What was made from a result before the damage
therefore stays valid, and only the damaged task runs again. Its ledger entry becomes `failed`, with cause `io` and
`restore` set.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ssem_dask.driver.invalidation import find_stale, mark_stale
from ssem_dask.driver.planned_tasks import done_tasks
from ssem_dask.geometry.region import RegionSet
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import delete, join
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.task import Cause, Outcome, Task, TaskReport

_CAUSES_BESIDE_DAMAGE = (
    Cause.OUT_OF_MEMORY,
    Cause.GPU_OUT_OF_MEMORY,
    Cause.WORKER_LOST,
    Cause.TIMEOUT,
    Cause.SUPERSEDED,
)
"""Causes of failure that damaged input cannot have."""


def verify(job: Job, *, stages: Sequence[Stage], executor: Executor) -> Iterator[TaskReport]:
    """Read all results again, and mark the damaged ones in the ledger.

    Yields:
        The present entry of each task that had ended well.
    """
    for stage in stages:
        for tasks in done_tasks(stage, job):
            yield from executor.map(verify_task, (task for task, _ in tasks))


def mark_damaged(
    failed: Iterable[TaskReport], job: Job, *, stages: Sequence[Stage], executor: Executor
) -> list[TaskReport]:
    """Check whether tasks failed because their input is damaged, and mark the damaged tasks for rewriting.

    If there are any, the failed tasks run again. With `--allow-missing` later tasks have ended without their results,
    and are marked stale.

    Returns:
        Entries of the damaged tasks; empty if the failures have other reasons.
    """
    repeated = {report.key: report.cause for report in failed}
    keys = {key for key, cause in repeated.items() if cause not in _CAUSES_BESIDE_DAMAGE}
    if not keys:
        return []
    reads = _regions_read(keys, job, stages=stages)
    damaged = []
    for stage in stages:
        for tasks in done_tasks(stage, job):
            suspects = (task for task, _ in tasks if reads.overlaps_any(task.footprint().writes))
            damaged += [report for report in executor.map(verify_task, suspects) if report.restore]
    if damaged:
        ledger = open_ledger(job.output)
        mark_stale(
            find_stale(job, stages=stages, ledger=ledger, selection=lambda task, _entry, _reads: task.key in repeated),
            ledger,
        )
    return damaged


def _regions_read(keys: set[str], job: Job, *, stages: Sequence[Stage]) -> RegionSet:
    """Return everything that the tasks of these keys read."""
    reads = RegionSet()
    for stage in stages:
        if not any(key.startswith(f"{stage.name}/") for key in keys):
            continue
        for generation in stage.generations(job):
            for task in generation:
                if task.key in keys:
                    reads.add(task.footprint().reads)
    return reads


def verify_task(task: Task) -> TaskReport:
    """Read what a task wrote, mark it in the ledger if it is damaged, and return its present entry."""
    ledger = open_ledger(task.output)
    with retry_for(LONG_RETRY_S), fused_codecs():
        entry = ledger.read(task.key)
        if entry is None or not entry.outcome.is_done:
            return entry or TaskReport(key=task.key, digest=task.digest, outcome=Outcome.STALE)
        damage = task.damage(entry.files)
        if not damage:
            return entry
        marked = replace(entry, outcome=Outcome.FAILED, cause=Cause.IO, message=damage, restore=True)
        ledger.replace_all([marked])
        # Writing part of a shard reads the shard first, which would fail because of the damage.
        for path in task.files():
            delete(join(task.output, path), recursive=False)
        return marked
