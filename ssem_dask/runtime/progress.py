"""Progress of a run in numbers: counted once here, and shown as bars, lines, JSON or metrics elsewhere.

A rate counts the tasks that ended since this process began the stage. Tasks of earlier runs count as done, but not
towards the rate.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ssem_dask.runtime.events import Observer, StageStarted
from ssem_dask.runtime.executor import Executor, ExecutorLoad
from ssem_dask.task import Outcome, TaskReport

_PUBLISH_INTERVAL_S = 1.0
Clock = Callable[[], float]


@dataclass(slots=True)
class StageProgress:
    """Progress of one stage."""

    stage: str
    tasks: int
    """All tasks of the stage."""
    pixels: int
    """Source pixels (mip 0) of all tasks."""
    began: float
    """Start, in seconds of the clock that the methods' `now` comes from."""
    done: int = 0
    """Tasks that ended well, including those of earlier runs."""
    failed: int = 0
    pixels_before: int = 0
    """Pixels of the tasks that earlier runs completed."""
    pixels_now: int = 0
    """Pixels of the tasks that ended in this run."""
    bytes_read: int = 0
    bytes_written: int = 0
    ended: float = 0.0
    """End, in seconds of the clock; 0 while the stage runs."""

    @classmethod
    def from_event(cls, event: StageStarted, *, now: float) -> "StageProgress":
        """Return the progress of a stage that begins now."""
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
        """Return the seconds since the stage began, or its duration if it has ended."""
        return max((self.ended or now) - self.began, 1e-6)

    def rate(self, now: float) -> float:
        """Return source pixels per second; 0 while no task has ended."""
        return self.pixels_now / self.seconds(now)

    def seconds_left(self, now: float) -> float | None:
        """Return the estimated seconds that remain; None while no task has ended."""
        rate = self.rate(now)
        pixels_left = self.pixels - self.pixels_before - self.pixels_now
        return max(pixels_left, 0) / rate if rate > 0 else None

    def numbers(self, now: float, load: ExecutorLoad | None) -> dict[str, Any]:
        """Return everything as plain values for JSON events and metrics; None means unknown."""
        seconds_left = self.seconds_left(now)
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
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        }


@dataclass(slots=True)
class PublishingObserver:
    """An observer that forwards all events, and lets the executor publish the numbers at most once a second."""

    observer: Observer
    executor: Executor
    clock: Clock = time.monotonic
    _progress: StageProgress | None = field(default=None, init=False)
    _last_published: float = field(default=-_PUBLISH_INTERVAL_S, init=False)

    def stage_started(self, event: StageStarted) -> None:
        """See `Observer.stage_started`."""
        self._progress = StageProgress.from_event(event, now=self.clock())
        self.observer.stage_started(event)
        self._publish()

    def task_ended(self, report: TaskReport) -> None:
        """See `Observer.task_ended`."""
        if self._progress is not None:
            self._progress.add(report)
        self.observer.task_ended(report)
        if self.clock() - self._last_published >= _PUBLISH_INTERVAL_S:
            self._publish()

    def stage_ended(self, stage: str) -> None:
        """See `Observer.stage_ended`."""
        self.observer.stage_ended(stage)
        if self._progress is not None:
            self._progress.ended = self.clock()
        self._publish()

    def note(self, message: str) -> None:
        """See `Observer.note`."""
        self.observer.note(message)

    def _publish(self) -> None:
        self._last_published = self.clock()
        if self._progress is not None:
            self.executor.publish(self._progress.numbers(self._last_published, self.executor.load()))
