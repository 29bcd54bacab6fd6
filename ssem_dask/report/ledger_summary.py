"""What the ledger tells of a run: how its tasks ended, by stage and by register window, and what it took.

One pass over the entries that holds counts and one byte a window, never the entries, since there may be a million.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ssem_dask.stages import register
from ssem_dask.task import Outcome, TaskReport, box_start
from ssem_dask.types import Float64Array, ShapeYX

NOT_DONE, OK, NO_TISSUE, LOW_QUALITY, FAILED = range(5)
"""Codes of windows, from harmless to bad; a window takes the worst of the tasks that cover it."""
_CODES = {
    Outcome.OK: OK,
    Outcome.NO_TISSUE: NO_TISSUE,
    Outcome.LOW_QUALITY: LOW_QUALITY,
    Outcome.FAILED: FAILED,
}
_LISTED = 200
_PAUSE = 60.0  # s


@dataclass(slots=True)
class StageEnded:
    """The tasks of one stage."""

    counts: dict[str, int] = field(default_factory=dict)
    """By outcome."""
    first: datetime | None = None
    last: datetime | None = None
    """Start of the first and end of the last task."""
    busy: float = 0.0
    """Seconds, summed over the tasks."""
    pixels: int = 0
    """Source pixels of the tasks that did not fail."""
    bytes_read: int = 0
    bytes_written: int = 0
    retried: int = 0
    """Tasks that were started more than once."""
    workers: set[str] = field(default_factory=set)

    @property
    def wall(self) -> float:
        """Seconds from the first start to the last end, pauses included."""
        if self.first is None or self.last is None:
            return 0.0
        return (self.last - self.first).total_seconds()

    def add(self, report: TaskReport) -> None:
        """Count a task."""
        self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
        self.busy += report.seconds
        self.bytes_read += report.bytes_read
        self.bytes_written += report.bytes_written
        self.retried += report.attempts > 1
        if report.outcome is not Outcome.FAILED:
            self.pixels += report.pixels
        if report.worker:
            self.workers.add(report.worker)
        start = _time(report)
        if start is None:
            return
        end = start + timedelta(seconds=report.seconds)
        self.first = start if self.first is None else min(self.first, start)
        self.last = end if self.last is None else max(self.last, end)


@dataclass(slots=True)
class Ended:
    """All tasks of a run."""

    stages: dict[str, StageEnded]
    """By name, in the order in which they first started."""
    windows: NDArray[np.uint8]
    """(z, y, x) codes of the register windows."""
    failed: list[TaskReport]
    """The first 200 tasks that failed."""
    remarks: list[TaskReport]
    """The first 200 tasks that ended as expected and have something to say."""
    at_work: float
    """Seconds during which any task ran; pauses of more than a minute do not count."""

    @property
    def failed_count(self) -> int:
        """Tasks that failed, all of them."""
        return sum(stage.counts.get(Outcome.FAILED, 0) for stage in self.stages.values())

    @property
    def wall(self) -> float:
        """Seconds from the first start to the last end of any task."""
        firsts = [stage.first for stage in self.stages.values() if stage.first is not None]
        lasts = [stage.last for stage in self.stages.values() if stage.last is not None]
        return (max(lasts) - min(firsts)).total_seconds() if firsts and lasts else 0.0


def gather(reports: Iterable[TaskReport], *, sections: int, windows: ShapeYX, window: ShapeYX, depth: int) -> Ended:
    """Go through the ledger once.

    Args:
        reports: its entries.
        sections: of the volume.
        windows: number of register windows (y, x).
        window: extent (y, x) of a window's core, mip-0 px.
        depth: sections of a window's core.
    """
    stages: dict[str, StageEnded] = {}
    codes = np.zeros((sections, *windows), dtype=np.uint8)
    failed: list[TaskReport] = []
    remarks: list[TaskReport] = []
    starts, ends = array("d"), array("d")
    for report in reports:
        stage = stages.setdefault(report.stage, StageEnded())
        stage.add(report)
        start = _time(report)
        if start is not None:
            starts.append(start.timestamp())
            ends.append(start.timestamp() + report.seconds)
        start_zyx = box_start(report.key) if report.stage == register.NAME else None
        if start_zyx is not None:
            z, y, x = start_zyx
            cell = codes[z : z + depth, y // window[0] : y // window[0] + 1, x // window[1] : x // window[1] + 1]
            np.maximum(cell, _CODES[report.outcome], out=cell)
        if report.outcome is Outcome.FAILED and len(failed) < _LISTED:
            failed.append(report)
        elif report.outcome is not Outcome.FAILED and report.message and len(remarks) < _LISTED:
            remarks.append(report)
    order = sorted(stages, key=lambda name: (str(stages[name].first or ""), name))
    at_work = _union(np.frombuffer(starts), np.frombuffer(ends))
    return Ended({name: stages[name] for name in order}, codes, failed, remarks, at_work)


def _union(starts: Float64Array, ends: Float64Array) -> float:
    """Seconds covered by the intervals, short gaps included."""
    if len(starts) == 0:
        return 0.0
    order = np.argsort(starts)
    reached = np.maximum.accumulate(ends[order])
    gaps = starts[order][1:] - reached[:-1]
    return float(reached[-1] - starts[order][0] - gaps[gaps > _PAUSE].sum())


def _time(report: TaskReport) -> datetime | None:
    try:
        return datetime.fromisoformat(report.started)
    except ValueError:
        return None
