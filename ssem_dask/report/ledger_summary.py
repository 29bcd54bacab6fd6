"""Summary of a run's ledger: how its tasks ended, by stage and by register window, and how long they took.

One pass over the entries. It keeps counts and one byte per window, never the entries, since there may be a million.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ssem_dask.stages.register import RegisterStage
from ssem_dask.task import Outcome, TaskReport, box_start
from ssem_dask.types import Float64Array, ShapeYX

NOT_DONE, OK, NO_TISSUE, LOW_QUALITY, FAILED = range(5)
"""Codes of windows, from harmless to bad; a window takes the worst code of the tasks that cover it."""
_CODES = {
    Outcome.OK: OK,
    Outcome.NO_TISSUE: NO_TISSUE,
    # The outcome of a task says nothing about each of its sections; see `report_data.mark_unplaced`.
    Outcome.LOW_QUALITY: OK,
    Outcome.FAILED: FAILED,
    Outcome.STALE: NOT_DONE,
}
_MAX_LISTED = 200
_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class StageSummary:
    """Totals over the tasks of one stage."""

    counts: dict[str, int] = field(default_factory=dict)
    """Number of tasks by outcome."""
    first_start: datetime | None = None
    last_end: datetime | None = None
    worker_seconds: float = 0.0
    """Duration, summed over the tasks."""
    pixels: int = 0
    """Source pixels of the tasks that did not fail."""
    bytes_read: int = 0
    bytes_written: int = 0
    clipped: int = 0
    """Pixels of which a change of contrast exceeded the range of the data type."""
    retried: int = 0
    """Tasks that were started more than once."""
    workers: set[str] = field(default_factory=set)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds from the first start to the last end, pauses included."""
        if self.first_start is None or self.last_end is None:
            return 0.0
        return (self.last_end - self.first_start).total_seconds()

    def add(self, report: TaskReport) -> None:
        """Count a task."""
        self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
        self.worker_seconds += report.seconds
        self.bytes_read += report.bytes_read
        self.bytes_written += report.bytes_written
        self.clipped += report.clipped
        self.retried += report.attempts > 1
        if report.outcome is not Outcome.FAILED:
            self.pixels += report.pixels
        if report.worker:
            self.workers.add(report.worker)
        start = _start_time(report)
        if start is None:
            return
        end = start + timedelta(seconds=report.seconds)
        self.first_start = start if self.first_start is None else min(self.first_start, start)
        self.last_end = end if self.last_end is None else max(self.last_end, end)


@dataclass(slots=True, kw_only=True)
class LedgerSummary:
    """Totals over all tasks of a run."""

    stages: dict[str, StageSummary]
    """Stages by name, in the order in which they first started."""
    window_codes: NDArray[np.uint8]
    """(z, y, x) codes of the register windows."""
    failed: list[TaskReport]
    """The first 200 tasks that failed."""
    remarks: list[TaskReport]
    """The first 200 tasks that ended as expected and have a message."""
    busy_seconds: float
    """Seconds during which any task ran; pauses of more than a minute do not count."""

    @property
    def failed_count(self) -> int:
        """Number of all tasks that failed."""
        return sum(stage.counts.get(Outcome.FAILED, 0) for stage in self.stages.values())

    @property
    def elapsed_seconds(self) -> float:
        """Seconds from the first start to the last end of any task."""
        starts = [stage.first_start for stage in self.stages.values() if stage.first_start is not None]
        ends = [stage.last_end for stage in self.stages.values() if stage.last_end is not None]
        return (max(ends) - min(starts)).total_seconds() if starts and ends else 0.0


def summarise_ledger(
    reports: Iterable[TaskReport], *, sections: int, windows: ShapeYX, window: ShapeYX, depth: int
) -> LedgerSummary:
    """Summarise a ledger in one pass.

    Args:
        reports: entries of the ledger.
        sections: number of sections of the volume.
        windows: number of register windows (y, x).
        window: extent (y, x) of a window's core, mip-0 px.
        depth: sections of a window's core.
    """
    stages: dict[str, StageSummary] = {}
    codes = np.zeros((sections, *windows), dtype=np.uint8)
    failed: list[TaskReport] = []
    remarks: list[TaskReport] = []
    starts, ends = array("d"), array("d")
    for report in reports:
        stage = stages.setdefault(report.stage, StageSummary())
        stage.add(report)
        start = _start_time(report)
        if start is not None:
            starts.append(start.timestamp())
            ends.append(start.timestamp() + report.seconds)
        box = box_start(report.key) if report.stage == RegisterStage.name else None
        if box is not None:
            z, y, x = box
            cell = codes[z : z + depth, y // window[0] : y // window[0] + 1, x // window[1] : x // window[1] + 1]
            np.maximum(cell, _CODES[report.outcome], out=cell)
        if report.outcome is Outcome.FAILED and len(failed) < _MAX_LISTED:
            failed.append(report)
        elif report.outcome is not Outcome.FAILED and report.message and len(remarks) < _MAX_LISTED:
            remarks.append(report)
    order = sorted(stages, key=lambda name: (str(stages[name].first_start or ""), name))
    return LedgerSummary(
        stages={name: stages[name] for name in order},
        window_codes=codes,
        failed=failed,
        remarks=remarks,
        busy_seconds=_covered_seconds(np.frombuffer(starts), np.frombuffer(ends)),
    )


def _covered_seconds(starts: Float64Array, ends: Float64Array) -> float:
    """Return the seconds covered by the union of the intervals, short gaps included."""
    if len(starts) == 0:
        return 0.0
    order = np.argsort(starts)
    latest_end = np.maximum.accumulate(ends[order])
    gaps = starts[order][1:] - latest_end[:-1]
    return float(latest_end[-1] - starts[order][0] - gaps[gaps > _PAUSE_SECONDS].sum())


def _start_time(report: TaskReport) -> datetime | None:
    try:
        return datetime.fromisoformat(report.started)
    except ValueError:
        return None
