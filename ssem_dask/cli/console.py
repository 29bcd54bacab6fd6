"""What the terminal shows: progress and complaints on stderr, results on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ssem_dask.runtime.events import Observer, StageStarted
from ssem_dask.task import Outcome, TaskReport

_WIDTH = 160
"""Columns of output that goes to a file or a pipe."""

out = Console(width=None if sys.stdout.isatty() else _WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)

_LINE_SECONDS = 10.0
"""Least time between two lines of plain progress, so that a long run does not flood a log."""


def complain(message: str) -> None:
    """Say on stderr what is wrong."""
    err.print(f"[bold red]error:[/bold red] {_plain(message)}", soft_wrap=True, highlight=False)


def note(message: str) -> None:
    """Say something on stderr."""
    err.print(_plain(message), soft_wrap=True, highlight=False, style="dim")


def show_json(value: Any) -> None:
    """Write a result to stdout as JSON."""
    out.print_json(json.dumps(value)) if out.is_terminal else out.file.write(json.dumps(value, indent=2) + "\n")


def table(title: str, *, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table on stdout; the first column is text, the others are numbers."""
    out.print(_plain(title), style="bold", soft_wrap=True, highlight=False)
    shown = Table()
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(_plain(cell) for cell in row))
    out.print(shown)


def si(value: float, unit: str) -> str:
    """A number with a metric prefix: 1 234 567 B → 1.23 MB."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000 or prefix == "P":
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    raise AssertionError


@contextmanager
def observer() -> Iterator[Observer]:
    """An observer for this terminal: bars where there is one, lines where output goes to a file."""
    if not err.is_terminal:
        yield _Lines()
        return
    with _bars() as progress:
        yield _Bars(progress)


@contextmanager
def counting(label: str, *, total: int | None) -> Iterator[Progress]:
    """A single bar for work that is no pipeline stage; call `advance(progress.task_ids[0], n)`."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    ) as progress:
        progress.add_task(label, total=total)
        yield progress


@contextmanager
def training(total: int) -> Iterator[Callable[[int, float], None]]:
    """Progress of a training: call with the steps done and the loss of the last one."""
    if not err.is_terminal:
        lines = _TrainingLines(total)
        yield lines.step
        lines.end()
        return
    with Progress(
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    ) as progress:
        bar = progress.add_task("train", total=total, loss="")
        yield lambda done, loss: progress.update(bar, completed=done, loss=f"{loss:.4f}")


class _TrainingLines:
    """A line every ten seconds, and one at the end."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._start = self._last = time.monotonic()
        self._done, self._loss = 0, float("nan")

    def step(self, done: int, loss: float) -> None:
        self._done, self._loss = done, loss
        now = time.monotonic()
        if now - self._last < _LINE_SECONDS:
            return
        self._last = now
        left = (now - self._start) / done * (self._total - done)
        note(f"train: {done} of {self._total} steps, loss {loss:.4f}, about {left:.0f} s left")

    def end(self) -> None:
        seconds = time.monotonic() - self._start
        note(f"train: {self._done} of {self._total} steps in {seconds:.1f} s, loss {self._loss:.4f}")


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("tasks"),
        TextColumn("{task.fields[rate]:>12}"),
        TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    )


class _Rate:
    """Source pixels per second of one stage, those of earlier runs not counted."""

    def __init__(self, event: StageStarted) -> None:
        self.event = event
        self.start = time.monotonic()
        self.pixels = 0
        self.tasks = event.done_tasks
        self.failed = 0

    def add(self, report: TaskReport) -> None:
        self.tasks += 1
        self.pixels += report.pixels
        self.failed += report.outcome is Outcome.FAILED

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.start, 1e-6)

    @property
    def text(self) -> str:
        return si(self.pixels / self.seconds, "px/s") if self.pixels else ""


class _Bars:
    """One bar a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = TaskID(0)
        self._rate = _Rate(StageStarted(stage="", tasks=0, pixels=0, done_tasks=0, done_pixels=0))

    def stage_started(self, event: StageStarted) -> None:
        self._rate = _Rate(event)
        self._bar = self._progress.add_task(
            event.stage, total=event.tasks, completed=event.done_tasks, rate="", failed=""
        )

    def task_ended(self, report: TaskReport) -> None:
        self._rate.add(report)
        failed = f"[red]{self._rate.failed} failed[/red]" if self._rate.failed else ""
        self._progress.update(self._bar, completed=self._rate.tasks, rate=self._rate.text, failed=failed)

    def stage_ended(self, stage: str) -> None:  # noqa: ARG002
        self._progress.update(self._bar, completed=self._rate.tasks)

    def note(self, message: str) -> None:
        self._progress.console.print(_plain(message), style="dim", highlight=False, soft_wrap=True)


class _Lines:
    """A line a stage, and one every ten seconds in between."""

    def __init__(self) -> None:
        self._rate = _Rate(StageStarted(stage="", tasks=0, pixels=0, done_tasks=0, done_pixels=0))
        self._last = 0.0

    def stage_started(self, event: StageStarted) -> None:
        self._rate = _Rate(event)
        self._last = time.monotonic()
        done = f", {event.done_tasks} done before" if event.done_tasks else ""
        note(f"{event.stage}: {event.tasks} tasks{done}")

    def task_ended(self, report: TaskReport) -> None:
        self._rate.add(report)
        if time.monotonic() - self._last < _LINE_SECONDS:
            return
        self._last = time.monotonic()
        rate, event = self._rate, self._rate.event
        todo = event.pixels - event.done_pixels - rate.pixels
        left = f", about {todo / rate.pixels * rate.seconds:.0f} s left" if rate.pixels else ""
        note(f"{event.stage}: {rate.tasks} of {event.tasks} tasks, {rate.failed} failed, {rate.text}{left}")

    def stage_ended(self, stage: str) -> None:
        rate = self._rate
        note(
            f"{stage}: {rate.tasks} of {rate.event.tasks} tasks in {rate.seconds:.1f} s, "
            f"{rate.failed} failed, {rate.text}"
        )

    def note(self, message: str) -> None:
        note(message)


def _plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", "\\[")
