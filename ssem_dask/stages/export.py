"""Copying a volume into another format, level by level, in boxes of whole files; the stage of `ssem-dask export`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_count
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result, Task, box_name

NAME = "export"
_COPIES = 8
"""Copies of a box that a task holds at most, measured on noise: stored, decoded, transposed or cut into chunks,
encoded, each of them twice for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTask(Task):
    """A copy of one box of one level."""

    source: str
    target: Target
    box: Box

    def run(self) -> Result:
        """Read the box and write it."""
        info = self.target.info
        source = Volume.open(self.source, like=info)
        values = source.read_channels(self.box)
        self.target.write(values, start=self.box.start, mip=self.box.mip)
        return Result(bytes_read=values.nbytes, bytes_written=values.nbytes)

    def footprint(self) -> Footprint:
        """Read the box of the source; write the same box of a level."""
        covered = self.box.at_mip(0).clipped(self.target.info.shape)
        return Footprint(reads=(Region("source", covered),), writes=(Region(str(self.box.mip), covered),))


def export_tasks(source: str, target: Target, *, digest: Callable[[Box], str]) -> Iterator[Task]:
    """Yield all boxes of all levels; they are independent.

    Args:
        source: URL of the volume to copy.
        target: the format to write.
        digest: returns the digest of everything that determines a box.
    """
    return (
        ExportTask(
            key=f"{NAME}/{box_name(box.start, mip=box.mip)}",
            output=target.url,
            digest=digest(box),
            pixels=box.size,
            source=source,
            target=target,
            box=box,
        )
        for box in export_boxes(target)
    )


def export_boxes(target: Target) -> Iterator[Box]:
    """Yield all boxes of all levels."""
    return chain.from_iterable(
        chunk_boxes(target.shape_at(mip), chunk=target.unit(mip), mip=mip) for mip in range(target.mips)
    )


def estimate_export(target: Target) -> Estimate:
    """Return the cost. Each task holds its box a few times and writes one or more files; every level's pixels count."""
    tasks, pixels, largest = 0, 0, 0
    for mip in range(target.mips):
        shape, unit = target.shape_at(mip), target.unit(mip)
        tasks += chunk_count(shape, chunk=unit)
        pixels += Box((0, 0, 0), shape).size
        largest = max(largest, Box((0, 0, 0), unit).clipped(shape).size)
    size = target.info.dtype.itemsize * target.info.planes
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=pixels * size,
        bytes_written=pixels * size,
        files=tasks,
        memory=TASK_OVERHEAD_BYTES + largest * size * _COPIES,
    )
