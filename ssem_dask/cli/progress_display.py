"""Display of progress while tasks run: bars on a terminal, lines in a log, JSON events for programs.

All go to stderr and show the same numbers. Their volume does not grow with the number of tasks: bars are redrawn, lines
appear every ten seconds, events at most once a second, and only the first failures are shown individually.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ssem_dask.cli import console
from ssem_dask.runtime.events import Observer, StageStarted
from ssem_dask.runtime.executor import Executor, ExecutorLoad
from ssem_dask.runtime.progress import Clock, StageProgress
from ssem_dask.shown import redacted
from ssem_dask.task import Outcome, TaskReport
from ssem_dask.units import duration, plural, si

_LINE_SECONDS = 10.0
_EVENT_SECONDS = 1.0
_LOAD_SECONDS = 1.0
_JUSTIFY: tuple[Literal["left", "right"], ...] = ("left", "left", "right", "right", "left")
_MAX_FAILURES = 20
"""Failures that are shown individually."""


@contextmanager
def observer_for(executor: Executor, *, as_json: bool) -> Iterator[Observer]:
    """Yield the observer that suits stderr: a terminal, a file, or a program.

    Args:
        executor: its load is shown.
        as_json: write events as JSON, one object per line.
    """
    load = RecentLoad(executor.load)
    shown: Observer
    if as_json:
        shown = Events(console.err, load)
    elif console.err.is_terminal:
        shown = Bars(load)
    else:
        shown = Lines(console.note, load)
    if isinstance(shown, Bars):
        with Live(get_renderable=shown.render, console=console.err, refresh_per_second=2, transient=False):
            yield shown
        return
    yield shown


class RecentLoad:
    """Load of an executor, queried at most once a second."""

    def __init__(self, query: Callable[[], ExecutorLoad], *, clock: Clock = time.monotonic) -> None:
        self._query, self._clock = query, clock
        self._load, self._last = ExecutorLoad(0, 0), -_LOAD_SECONDS

    def __call__(self) -> ExecutorLoad:
        """Return the load; the last one if it is less than a second old."""
        now = self._clock()
        if now - self._last >= _LOAD_SECONDS:
            self._last = now
            self._load = self._query()
        return self._load


class Bars:
    """One bar per stage, and a line about the running one."""

    def __init__(self, load: Callable[[], ExecutorLoad], *, clock: Clock = time.monotonic) -> None:
        self._load, self._clock = load, clock
        self._stages: list[StageProgress] = []

    def stage_started(self, event: StageStarted) -> None:
        """Add a bar."""
        self._stages.append(StageProgress.from_event(event, now=self._clock()))

    def task_ended(self, report: TaskReport) -> None:
        """Count the task; the next frame shows it."""
        self._stages[-1].add(report)

    def stage_ended(self, stage: str) -> None:  # noqa: ARG002
        """Stop the clock of the stage."""
        self._stages[-1].ended = self._clock()

    def note(self, message: str) -> None:
        """Show the message above the bars."""
        console.note(message)

    def render(self) -> RenderableType:
        """Return what to draw now."""
        return bars(self._stages, now=self._clock(), load=self._load)


class Lines:
    """One line when a stage begins and ends, and one every ten seconds in between."""

    def __init__(
        self, say: Callable[[str], None], load: Callable[[], ExecutorLoad], *, clock: Clock = time.monotonic
    ) -> None:
        self._say, self._load, self._clock = say, load, clock
        self._progress: StageProgress | None = None
        self._last = 0.0

    def stage_started(self, event: StageStarted) -> None:
        """Show the number of tasks."""
        self._last = self._clock()
        self._progress = StageProgress.from_event(event, now=self._last)
        done = f", {event.done_tasks:,} done before" if event.done_tasks else ""
        self._say(f"{event.stage}: {plural(event.tasks, 'task')}{done}")

    def task_ended(self, report: TaskReport) -> None:
        """Show a failure and, if ten seconds have passed, the progress."""
        progress, now = self._progress, self._clock()
        assert progress is not None
        progress.add(report)
        if report.outcome is Outcome.FAILED and progress.failed <= _MAX_FAILURES:
            self._say(f"{report.key} failed ({report.cause}): {report.message}")
        if now - self._last >= _LINE_SECONDS:
            self._last = now
            remaining = progress.seconds_left(now)
            end = "" if remaining is None else f"; about {duration(remaining)} left"
            done = progress.done + progress.failed
            details = describe(progress, now=now, load=self._load())
            self._say(f"{progress.stage}: {done:,} of {plural(progress.tasks, 'task')}, {details}{end}")

    def stage_ended(self, stage: str) -> None:
        """Show the duration of the stage."""
        progress, now = self._progress, self._clock()
        assert progress is not None
        rate = f", {si(progress.rate(now), 'px/s')}" if progress.pixels_now else ""
        self._say(
            f"{stage}: {progress.done + progress.failed:,} of {plural(progress.tasks, 'task')} in "
            f"{duration(progress.seconds(now))}, {progress.failed:,} failed{rate}"
        )

    def note(self, message: str) -> None:
        """Show the message."""
        self._say(message)


class Events:
    """One JSON object per line: stage_started, progress, task_failed, stage_ended, note."""

    def __init__(self, to: Console, load: Callable[[], ExecutorLoad], *, clock: Clock = time.monotonic) -> None:
        self._to, self._load, self._clock = to, load, clock
        self._progress: StageProgress | None = None
        self._last = 0.0

    def stage_started(self, event: StageStarted) -> None:
        """Write the numbers at the start of a stage."""
        self._last = self._clock()
        self._progress = StageProgress.from_event(event, now=self._last)
        self._write_numbers("stage_started")

    def task_ended(self, report: TaskReport) -> None:
        """Write the numbers, at most once a second, and each of the first failures with its cause."""
        progress, now = self._progress, self._clock()
        assert progress is not None
        progress.add(report)
        if report.outcome is Outcome.FAILED and progress.failed <= _MAX_FAILURES:
            self._write({"event": "task_failed", "key": report.key, "cause": report.cause, "message": report.message})
        if now - self._last >= _EVENT_SECONDS:
            self._last = now
            self._write_numbers("progress")

    def stage_ended(self, stage: str) -> None:  # noqa: ARG002
        """Write the numbers at the end of a stage."""
        assert self._progress is not None
        self._progress.ended = self._clock()
        self._write_numbers("stage_ended")

    def note(self, message: str) -> None:
        """Write the message as an event."""
        self._write({"event": "note", "message": message})

    def _write_numbers(self, event: str) -> None:
        assert self._progress is not None
        self._write({"event": event, **self._progress.numbers(self._clock(), self._load())})

    def _write(self, value: dict[str, Any]) -> None:
        self._to.file.write(redacted(json.dumps(value)) + "\n")
        self._to.file.flush()


def bars(stages: Sequence[StageProgress], *, now: float, load: Callable[[], ExecutorLoad] | None) -> RenderableType:
    """Return one bar per stage, and a line about the first one that is unfinished."""
    table = Table.grid(padding=(0, 1))
    for justify in _JUSTIFY:
        table.add_column(justify=justify, no_wrap=True)
    for progress in stages:
        done, remaining = progress.done + progress.failed, progress.seconds_left(now)
        when = "" if remaining is None or done >= progress.tasks else f"{duration(remaining)} left"
        table.add_row(
            f"{progress.stage:<10}",
            ProgressBar(total=max(progress.tasks, 1), completed=done, width=24),
            f"{done:,}/{progress.tasks:,}",
            duration(progress.seconds(now)) if progress.ended else when,
            Text(f"{progress.failed:,} failed" if progress.failed else "", style="red"),
        )
    current = next((s for s in stages if not s.ended and s.done + s.failed < s.tasks), None)
    if current is None:
        return table
    details = describe(current, now=now, load=load() if load is not None else None)
    return Group(table, Text(f"{current.stage}: {details}", style="dim", overflow="fold"))


def describe(progress: StageProgress, *, now: float, load: ExecutorLoad | None) -> str:
    """Return one line with failures, load, rate and bytes."""
    parts = [f"{progress.failed:,} failed"]
    if load is not None:
        parts.append(f"{load.running:,} running on {plural(load.workers, 'worker')}")
    if progress.pixels_now:
        parts.append(si(progress.rate(now), "px/s"))
    if progress.bytes_read or progress.bytes_written:
        parts.append(f"read {si(progress.bytes_read, 'B')}, wrote {si(progress.bytes_written, 'B')}")
    return ", ".join(parts)
