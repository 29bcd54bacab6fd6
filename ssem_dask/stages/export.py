"""Copying a volume into another format, level by level, in boxes of whole files; the stage of `ssem-dask export`."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_count
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result, Task, box_key

NAME = "export"
_COPIES = 8
"""Of a box that a task holds at most, counted on noise: as stored, decoded, turned round or cut into chunks, encoded,
each for a while twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTask(Task):
    """Copy one box of one level."""

    source: str
    target: Target
    box: Box


def export_tasks(source: str, target: Target, *, digest: str) -> Iterator[Task]:
    """All boxes of all levels; they are independent.

    Args:
        source: URL of the volume that is copied.
        target: what is written.
        digest: of all that decides the result.
    """
    return (
        ExportTask(
            key=box_key(NAME, box.start, mip=box.mip),
            output=target.url,
            digest=digest,
            pixels=box.size,
            source=source,
            target=target,
            box=box,
        )
        for box in chain.from_iterable(
            chunk_boxes(target.shape_at(mip), chunk=target.unit(mip), mip=mip) for mip in range(target.mips)
        )
    )


def run(task: Task) -> Result:
    """Read a box and write it."""
    assert isinstance(task, ExportTask)
    info = task.target.info
    source = Volume.open(task.source, like=info)
    values = source.read(task.box)
    task.target.write(values, start=task.box.start, mip=task.box.mip)
    return Result(bytes_read=values.nbytes, bytes_written=values.nbytes)


def estimate_export(target: Target) -> Estimate:
    """Each task holds its box a few times, and writes a file or more; the unit of progress is a pixel of any level."""
    tasks, pixels, largest = 0, 0, 0
    for mip in range(target.mips):
        shape, unit = target.shape_at(mip), target.unit(mip)
        tasks += chunk_count(shape, chunk=unit)
        pixels += Box((0, 0, 0), shape).size
        largest = max(largest, Box((0, 0, 0), unit).clipped(shape).size)
    size = target.info.dtype.itemsize
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=pixels * size,
        bytes_written=pixels * size,
        files=tasks,
        memory=TASK_OVERHEAD + largest * size * _COPIES,
    )
