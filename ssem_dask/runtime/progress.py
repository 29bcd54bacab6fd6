"""How far a run is, in numbers: kept once, and shown as bars, lines, JSON or metrics.

A rate counts what this process has seen end, over the time since the stage began; tasks of earlier runs count as done
and not towards the rate.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ssem_dask.runtime.events import Observer, StageStarted
from ssem_dask.runtime.executor import Executor, ExecutorLoad
from ssem_dask.task import Outcome, TaskReport

_PUBLISHED_SECONDS = 1.0
Clock = Callable[[], float]


@dataclass(slots=True)
class StageProgress:
    """The numbers of one stage."""

    stage: str
    tasks: int
    """All of them."""
    pixels: int
    """Source pixels (mip 0) of all tasks."""
    began: float
    """Seconds on the clock that `seconds` is asked with."""
    done: int = 0
    """Tasks that ended well, those of earlier runs included."""
    failed: int = 0
    pixels_before: int = 0
    """Pixels of the tasks that earlier runs have done."""
    pixels_now: int = 0
    """Pixels of the tasks that ended in this run."""
    bytes_read: int = 0
    bytes_written: int = 0
    last: float = 0.0
    """When it ended; 0 while it goes on."""

    @classmethod
    def of(cls, event: StageStarted, *, now: float) -> "StageProgress":
        """A stage that begins."""
        return cls(event.stage, event.tasks, event.pixels, now, done=event.done_tasks, pixels_before=event.done_pixels)

    def add(self, report: TaskReport) -> None:
        """Count a task that has ended."""
        if report.outcome is Outcome.FAILED:
            self.failed += 1
        else:
            self.done += 1
        self.pixels_now += report.pixels
        self.bytes_read += report.bytes_read
        self.bytes_written += report.bytes_written

    def seconds(self, now: float) -> float:
        """Since it began, or in all."""
        return max((self.last or now) - self.began, 1e-6)

    def rate(self, now: float) -> float:
        """Source pixels a second; 0 while nothing has ended."""
        return self.pixels_now / self.seconds(now)

    def left(self, now: float) -> float | None:
        """Seconds that remain; None while that cannot be told."""
        rate = self.rate(now)
        todo = self.pixels - self.pixels_before - self.pixels_now
        return max(todo, 0) / rate if rate > 0 else None

    def numbers(self, now: float, load: ExecutorLoad | None) -> dict[str, Any]:
        """All as plain values, as JSON events and metrics have them; None for what is not known."""
        left = self.left(now)
        return {
            "stage": self.stage,
            "tasks": self.tasks,
            "done": self.done,
            "failed": self.failed,
            "running": None if load is None else load.running,
            "workers": None if load is None else load.workers,
            "pixels": self.pixels,
            "pixels_done": self.pixels_before + self.pixels_now,
            "pixels_per_second": round(self.rate(now), 1),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "seconds": round(self.seconds(now), 1),
            "seconds_left": None if left is None else round(left, 1),
        }


@dataclass(slots=True)
class PublishingObserver:
    """An observer that hands everything on, and at most once a second has the executor publish the numbers."""

    observer: Observer
    executor: Executor
    clock: Clock = time.monotonic
    _progress: StageProgress | None = field(default=None, init=False)
    _last: float = field(default=-_PUBLISHED_SECONDS, init=False)

    def stage_started(self, event: StageStarted) -> None:
        """A stage begins."""
        self._progress = StageProgress.of(event, now=self.clock())
        self.observer.stage_started(event)
        self._publish()

    def task_ended(self, report: TaskReport) -> None:
        """A task has ended."""
        if self._progress is not None:
            self._progress.add(report)
        self.observer.task_ended(report)
        if self.clock() - self._last >= _PUBLISHED_SECONDS:
            self._publish()

    def stage_ended(self, stage: str) -> None:
        """Every task of the stage has ended."""
        self.observer.stage_ended(stage)
        if self._progress is not None:
            self._progress.last = self.clock()
        self._publish()

    def note(self, message: str) -> None:
        """Something to read once."""
        self.observer.note(message)

    def _publish(self) -> None:
        self._last = self.clock()
        if self._progress is not None:
            self.executor.publish(self._progress.numbers(self._last, self.executor.load()))
