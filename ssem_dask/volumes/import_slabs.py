"""Slabs of an import: sections that are as many as a shard is deep, at all levels.

No file belongs to two slabs, so workers can write slabs at the same time. Each opens the source once. The journal is
written by the process that imports, which also holds the lease: a worker whose import was replaced by another stops
before it writes (`runtime.exclusive_driver`).
"""

import math
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import psutil

from ssem_dask.errors import IncompleteError, LeaseLostError, SourceError, SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint
from ssem_dask.runtime.execute import cause_of
from ssem_dask.runtime.executor import Executor
from ssem_dask.shown import redacted
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.storage import location
from ssem_dask.storage.formats.channel_set import ChannelSelection, ChannelSet
from ssem_dask.storage.formats.source import ReadOptions
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.task import Outcome, Result, Task, TaskReport
from ssem_dask.types import AnyArray
from ssem_dask.volumes.import_journal import Slab
from ssem_dask.volumes.import_plan import BAND_BYTES, ImportPlan

SLAB_STAGE = "slabs"
"""First part of the keys of slabs."""
_LEAST_BYTES = 2 << 30
"""Bytes of a volume at mip 0 below which workers take longer to start than they save."""
_PROBE_PX = 64
"""Distance of the values of a shard that are looked at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabTask(Task):
    """Copy of one slab of sections from the source into all levels of the volume."""

    start: int
    stop: int
    source: str
    reading: ReadOptions
    selection: ChannelSelection
    where: str
    """URL of the group that is written."""
    info: VolumeInfo
    mips: int
    existing: frozenset[str]
    """Paths of shards of the slab that an interrupted import has written."""

    def run(self) -> Result:
        """Copy the slab."""
        self.copy()
        return Result()

    def copy(self) -> Slab:
        """Copy the slab from the source as this process has opened it."""
        volume = Volume.unfinished(self.where, info=self.info, mips=self.mips)
        return self.copy_from(_opened(self.source, self.reading, self.selection), volume)

    def copy_from(self, source: ChannelSet, volume: Volume, *, progress: Callable[[int], None] | None = None) -> Slab:
        """Copy the slab, band by band, all channels of a band at once.

        Args:
            source: the source, open.
            volume: the volume that is written.
            progress: called with the number of pixels of mip 0 done since the last call.
        """
        slab = Slab(self.digest, np.inf, -np.inf)
        unit_z, unit_y, _ = volume.write_unit(0)
        _, y, x = self.info.shape
        writers = [_ShardWriter(channel, slab, existing=self.existing) for channel in volume.each_channel]
        levels = [
            SlabWriter(
                writer.volume,
                sections=range(self.start, self.stop),
                labels=self.reading.labels,
                write_shard=writer.write,
            )
            for writer in writers
        ]
        row_bytes = min(unit_z, self.info.shape[0]) * x * self.info.dtype.itemsize * len(writers)
        band = max(1, BAND_BYTES // (row_bytes * unit_y)) * unit_y
        for y_start in range(0, y, band):
            box = Box((self.start, y_start, 0), (self.stop, y_start + band, x)).clipped(self.info.shape)
            with location.reading(self.source):
                bands = source.read(z_start=box.start[0], z_stop=box.stop[0], y_start=box.start[1], y_stop=box.stop[1])
            for writer, level in zip(writers, levels, strict=True):
                values = bands.pop(0)
                if self.info.channel in (None, writer.volume.info.channel):  # another detector may see nothing
                    slab.lowest = min(slab.lowest, float(values.min()))
                    slab.highest = max(slab.highest, float(values.max()))
                level.write(_as_type(values, self.info.dtype))
                if progress is not None:
                    progress(box.size)
        return slab

    def footprint(self) -> Footprint:
        """Nothing of a run."""
        return Footprint(reads=(), writes=())


@dataclass(frozen=True, slots=True)
class SlabReport(TaskReport):
    """How the copy of a slab ended."""

    slab: Slab | None = None
    error: SsemDaskError | None = None
    """Error for the user, if it failed with one."""


def suggest_workers(plan: ImportPlan) -> int:
    """Return how many workers of this machine copy the slabs of a plan best; 1 if the volume is small."""
    size = math.prod(plan.info.shape) * plan.info.planes * plan.info.dtype.itemsize
    if size < _LEAST_BYTES:
        return 1
    slabs = ceil_div(plan.info.shape[0], plan.shard[0])
    fitting = _available_memory() // plan.worker_memory
    return max(1, min(len(os.sched_getaffinity(0)), slabs, fitting))


def _available_memory() -> int:
    return int(psutil.virtual_memory().available)


def copy_slabs(tasks: Sequence[SlabTask], *, executor: Executor) -> Iterator[tuple[SlabTask, Slab]]:
    """Have workers copy slabs; yield each as it ends.

    Raises:
        SsemDaskError: the first error of a worker.
        IncompleteError: the workers that copied a slab died.
    """
    by_key = {task.key: task for task in tasks}
    for report in executor.map(copy_slab, tasks):
        task = by_key[report.key]
        if isinstance(report, SlabReport) and report.slab is not None:
            yield task, report.slab
        elif isinstance(report, SlabReport) and report.error is not None:
            raise report.error
        else:
            raise IncompleteError(
                f"{task.source}: sections {task.start} to {task.stop - 1} could not be imported: {report.message}; "
                "run the same command again, with --workers 1 if memory is short."
            ) from (RuntimeError(report.log) if report.log else None)


def copy_slab(task: Task) -> TaskReport:
    """Copy a slab in a worker; errors are reported, not raised."""
    assert isinstance(task, SlabTask)
    report = SlabReport(key=task.key, digest=task.digest, outcome=Outcome.OK, pixels=task.pixels)
    try:
        return replace(report, slab=task.copy())
    except LeaseLostError:
        raise
    except Exception as error:  # noqa: BLE001  it goes to the user from the process that imports
        known = error if isinstance(error, SsemDaskError) else None
        log = "" if known else redacted(traceback.format_exc())
        message = redacted(f"{type(error).__name__}: {error}")
        return replace(report, outcome=Outcome.FAILED, cause=cause_of(error), message=message, log=log, error=known)


@lru_cache(maxsize=1)  # a folder of many files is listed and checked when it is opened
def _opened(source: str, reading: ReadOptions, selection: ChannelSelection) -> ChannelSet:
    return ChannelSet(source, reading, selection)


class _ShardWriter:
    """Writes the shards of one slab, unless they are there already, and records them."""

    def __init__(self, volume: Volume, slab: Slab, *, existing: frozenset[str]) -> None:
        self.slab = slab
        self.volume = volume
        self._existing = existing

    def write(self, box: Box, values: AnyArray) -> None:
        """Write a shard."""
        # Zeros have no file. Most shards show by a few of their values that they hold more.
        if not (values[:, ::_PROBE_PX, ::_PROBE_PX].any() or values.any()):
            return
        path = self.volume.shard_path(box)
        if path not in self._existing:
            self.volume.write(box, values)
        self.slab.files.append(path)


def _as_type(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    if values.dtype.newbyteorder("=") != dtype:
        raise SourceError(f"values are {values.dtype} where the header says {dtype}; export the volume again.")
    return values.astype(dtype, copy=False)
