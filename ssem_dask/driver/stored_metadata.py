"""Zarr metadata of a run: whether they are those that the configuration makes, and their repair.

What must exist follows from the table of arrays and the resolved configuration: every stage makes its arrays in memory
(`stages.files.planned_metadata`), and their metadata files are compared with the stored ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ssem_dask.driver.planned_tasks import any_done, done_tasks
from ssem_dask.stages.array_rows.fixed_arrays import FIXED_PREFIX
from ssem_dask.stages.files import PlannedMetadata, planned_metadata
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import FIX_TASKS, Stage
from ssem_dask.storage import location
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.node_metadata import metadata_damage, restored
from ssem_dask.task import Cause, Outcome, TaskReport


def find_metadata_damage(job: Job, *, stages: Sequence[Stage], ledger: Ledger, complete: bool) -> Iterator[str]:
    """Yield a sentence on each metadata file that is missing, unreadable, or not what the configuration makes.

    Args:
        job: the run.
        stages: the stages that have tasks.
        ledger: ledger of the run.
        complete: whether the run has ended, so that every stage has made its arrays. Otherwise only the arrays of
            stages that have begun are expected.
    """
    begun = {stage.name for stage in stages if complete or ledger.pages(stage.name)}
    for path, planned in _expected_metadata(job, stages, ledger).items():
        if planned.stage in begun:
            damage = metadata_damage(job.url(path), planned=planned.content)
            if damage:
                yield f"{job.url(path)}: {damage}."


def restore_metadata(job: Job, *, stages: Sequence[Stage], ledger: Ledger) -> list[str]:
    """Write damaged metadata files again, and mark the tasks whose files do not fit them; the caller holds the lease.

    An array that no task has written with the present configuration is left to its stage, since its layout may be that
    of an earlier configuration (`pipeline._prepare`).

    Returns:
        A sentence for each file that was written.
    """
    lines, arrays = [], set()
    written = {stage.name: any_done(ledger, stage.name, digest=job.digests[stage.name]) for stage in stages}
    for path, planned in _expected_metadata(job, stages, ledger).items():
        url = job.url(path)
        damage = metadata_damage(url, planned=planned.content) if written[planned.stage] else ""
        if damage:
            with location.writing(url):
                location.write_bytes(url, restored(url, planned=planned.content))
            lines.append(f"{url}: {damage}; it is written again.")
            arrays.add(path.rpartition("/")[0])
    if arrays:
        _mark_unfitting(job, stages=stages, ledger=ledger, arrays=arrays)
    return lines


def _expected_metadata(job: Job, stages: Sequence[Stage], ledger: Ledger) -> dict[str, PlannedMetadata]:
    """Return the planned metadata, without arrays that only tasks of fixes write if none of these has run."""
    planned = planned_metadata(job, stages)
    pages = {stage.name: ledger.pages(stage.name) for stage in stages} if job.fixes != job.fitted_fixes else {}
    fixed = {name for name, known in pages.items() if any(page.startswith(f"{name}/{FIX_TASKS}") for page in known)}
    return {path: each for path, each in planned.items() if not path.startswith(FIXED_PREFIX) or each.stage in fixed}


def _mark_unfitting(job: Job, *, stages: Sequence[Stage], ledger: Ledger, arrays: set[str]) -> None:
    """Mark the done tasks that wrote other files than the restored arrays have: their layout was another one."""
    for stage in stages:
        for tasks in done_tasks(stage, job):
            marked: list[TaskReport] = []
            for task, entry in tasks:
                if arrays.isdisjoint(region.name for region in task.footprint().writes):
                    continue
                if entry.files and task.files() != entry.files:
                    message = "Its files do not fit the metadata of their array."
                    marked.append(replace(entry, outcome=Outcome.FAILED, cause=Cause.IO, message=message, restore=True))
            ledger.replace_all(marked)
