"""The files that a task owns: which they are, whether they hold the stored data, and that no two tasks share one.

Files are the shards (or the chunks of an array without shards, or a JSON file) under the regions of a task's footprint.
A shard that holds only the fill value is not stored, so a task's ledger entry lists the files that were written.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING

from ssem_dask.errors import PlanError, SourceError
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import array_at
from ssem_dask.storage import location
from ssem_dask.storage.arrays import ZarrArray, reading_chunks, write_unit
from ssem_dask.storage.json_records import read_record
from ssem_dask.storage.node_metadata import METADATA_FILE

if TYPE_CHECKING:
    from ssem_dask.stages.stage import Stage

_JSON = ".json"


@dataclass(frozen=True, slots=True)
class PlannedMetadata:
    """Metadata file of an array or group that a stage makes."""

    stage: str
    """Name of the stage."""
    content: bytes


_CHECKED_TASKS = 4
"""Tasks per generation whose regions are compared with the shards; a generation tiles the volume evenly."""


def written_files(job: Job, footprint: Footprint, *, overridden: bool = False) -> dict[str, int]:
    """Return the files that a task has written: path in the run → bytes.

    Args:
        job: the run.
        footprint: of the task.
        overridden: whether the task has settings of its own, so that the layout is that of the stored arrays.
    """
    files = {}
    for region in footprint.writes:
        for path in _paths(job, region, overridden=overridden):
            size = location.file_size(job.url(path))
            if size is not None:
                files[path] = size
    return files


def find_damage(job: Job, footprint: Footprint, *, files: Mapping[str, int]) -> str:
    """Read everything that a task has written.

    Args:
        job: the run.
        footprint: of the task.
        files: files listed in the task's ledger entry, with their bytes.

    Returns:
        A sentence on the first missing or damaged file; empty if there is none.
    """
    for path, size in files.items():
        actual = location.file_size(job.url(path))
        if actual != size:
            return f"{job.url(path)}: {'is missing' if actual is None else f'has {actual} bytes, not {size}'}."
    for region in footprint.writes:
        try:
            _read(job, region)
        except SourceError as error:
            return str(error)
    return ""


def refuse_shared_shards(job: Job, stages: Sequence["Stage"]) -> None:
    """Raise PlanError if a task would write only a part of a shard; touch nothing.

    A partial write reads, changes and rewrites a file, so two tasks that write to one file lose data silently. The
    arrays are made in memory, metadata alone, and compared with the regions that each generation's first tasks write.
    """
    with _trial(job) as trial:
        for stage in stages:
            stage.prepare(trial)
            for generation in stage.generations(trial):
                for task in islice(generation, _CHECKED_TASKS):
                    for region in task.footprint().writes:
                        if not _owns_whole_files(trial, region):
                            raise PlanError(
                                f"{task.key}: would write {region.box.start} to {region.box.stop} of {region.name}, "
                                "which is not made of whole shards, so that another task could write the same file; "
                                "choose windows and shards that are multiples of each other."
                            )


def planned_metadata(job: Job, stages: Sequence["Stage"]) -> dict[str, PlannedMetadata]:
    """Return the metadata files of all arrays and groups that the stages make, by path in the run; touch nothing.

    This is what must exist when the stages have run. It follows from the configuration alone, as the stages make it in
    memory, and not from what is stored.
    """
    planned: dict[str, PlannedMetadata] = {}
    with _trial(job) as trial:
        for stage in stages:
            stage.prepare(trial)
            for path in location.list_files(trial.output):
                if path.rpartition("/")[2] == METADATA_FILE and path not in planned:
                    planned[path] = PlannedMetadata(stage.name, location.read_bytes(trial.url(path)))
    return planned


@contextmanager
def _trial(job: Job) -> Iterator[Job]:
    """Yield the run with an output in memory, for arrays without values."""
    trial = replace(job, output=f"memory://ssem-dask-plan-{uuid.uuid4().hex}.zarr")
    try:
        yield trial
    finally:
        location.delete(trial.output, recursive=True)


def _read(job: Job, region: Region) -> None:
    """Decode all chunks of a region, one file's at a time."""
    if region.name.endswith(_JSON):
        with contextlib.suppress(FileNotFoundError):
            read_record(job.url(region.name))
        return
    array = array_at(region.name).planned(job)
    unit = write_unit(array)
    for position in product(*_units(job, region, array)):
        index = tuple(
            slice(i * n, min((i + 1) * n, extent)) for i, n, extent in zip(position, unit, array.shape, strict=True)
        )
        with reading_chunks(f"{job.url(region.name)}: {_key(array, position)}"):
            array[index]


def _paths(job: Job, region: Region, *, overridden: bool) -> Iterator[str]:
    if region.name.endswith(_JSON):
        yield region.name
        return
    row = array_at(region.name)
    array = row.open(job) if overridden else row.planned(job)
    for position in product(*_units(job, region, array)):
        yield f"{region.name}/{_key(array, position)}"


def _owns_whole_files(job: Job, region: Region) -> bool:
    """Return whether no file of the region's array holds anything beyond the region; True if it is no array."""
    if region.name.endswith(_JSON):
        return True
    row = array_at(region.name)
    if not row.exists(job):
        return True  # the configuration makes none
    array = row.open(job)
    extents = row.extents(job, region)
    return all(
        start % unit == 0 and (stop % unit == 0 or stop == extent)
        for (start, stop), extent, unit in zip(extents, array.shape, write_unit(array), strict=True)
    )


def _units(job: Job, region: Region, array: ZarrArray) -> list[range]:
    """Return per axis the numbers of the files that hold some of the region."""
    return [
        range(start // unit, ceil_div(stop, unit))
        for (start, stop), unit in zip(array_at(region.name).extents(job, region), write_unit(array), strict=True)
    ]


def _key(array: ZarrArray, position: tuple[int, ...]) -> str:
    key: str = array.metadata.encode_chunk_key(position)
    return key
