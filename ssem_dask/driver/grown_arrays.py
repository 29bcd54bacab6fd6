"""Growth of a run's arrays along z: their shape, and once, before the first growth, their files.

Files that hold many sections cannot be appended to without touching sections that are finished. So the arrays of a run
that grows have files of few sections (`Job.growth`). An array with deeper files is copied to a place beside it, which
replaces it when it is whole; a kill at any moment leaves one of the two. A mark says of an array that its replacement
was begun; it stays until the ledger knows the new files, so that a kill in between does not leave it with the old ones.
"""

from dataclasses import replace

from ssem_dask.driver.planned_tasks import done_tasks
from ssem_dask.errors import OutputError
from ssem_dask.stages.files import planned_metadata
from ssem_dask.stages.job import Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage import location
from ssem_dask.storage.fence import confirm_fence
from ssem_dask.storage.grown_array import Difference, copy_array, difference, is_copied
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.node_metadata import METADATA_FILE

_BESIDE = ".deeper"
"""Ending of the place of a copy."""
_BEGUN = ".replaced"
"""Ending of the mark of an array whose replacement was begun."""


def grow_arrays(job: Job) -> None:
    """Make the arrays of a run as long as its sections; the caller holds the lease.

    Raises:
        OutputError: an array has files of another extent, which only another configuration makes.
    """
    if job.growth is None:
        return
    moved = set[str]()
    for path, planned in planned_metadata(job, STAGES).items():
        folder, _, name = path.rpartition("/")
        if name != METADATA_FILE or not folder:
            continue
        url = job.url(folder)
        beside = url + _BESIDE
        if location.exists(url + _BEGUN):  # a kill came after this
            if is_copied(beside):
                _replace(beside, url)
            moved.add(folder)
        found = difference(url, planned=planned.content)
        if found is Difference.SHAPE:
            with location.writing(url):
                location.write_bytes(location.join(url, METADATA_FILE), planned.content)
        elif found is Difference.FILES:
            if folder.startswith("aligned"):
                raise OutputError(
                    f"{url}: its files are not as deep as [render] shard says, since the run had fewer sections; "
                    "align all sections to another output."
                )
            confirm_fence()
            copy_array(url, beside, planned=planned.content)
            location.write_bytes(url + _BEGUN, b"")
            _replace(beside, url)
            moved.add(folder)
    if moved:
        _record_files(job, moved)
        for folder in moved:
            location.delete(job.url(folder) + _BEGUN, recursive=False)


def _replace(beside: str, url: str) -> None:
    confirm_fence()
    location.delete(url, recursive=True)
    location.move_or_copy(beside, to=url)
    location.delete(beside, recursive=True)


def _record_files(job: Job, arrays: set[str]) -> None:
    """Write the new files of some arrays into the ledger entries of the tasks that wrote the old ones."""
    ledger = open_ledger(job.output)
    for stage in STAGES:
        for tasks in done_tasks(stage, job):
            ledger.replace_all(
                replace(entry, files=task.files())
                for task, entry in tasks
                if not arrays.isdisjoint(region.name for region in task.footprint().writes)
            )
