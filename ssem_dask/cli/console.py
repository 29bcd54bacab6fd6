"""Output to the terminal: results on stdout; progress, notes and errors on stderr.

Nothing is taken for rich's markup, so names are shown as they are; control characters are shown as escapes.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ssem_dask.shown import redacted, shown, visible

_WIDTH = 160
"""Line width, in columns, of output to a file or a pipe."""


def _console(stream: IO[str] | None, *, stderr: bool) -> Console:
    width = None if stream is not None and stream.isatty() else _WIDTH
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


out = _console(sys.stdout, stderr=False)
err = _console(sys.stderr, stderr=True)

_LINE_SECONDS = 10.0
"""Shortest time between two lines of plain progress, so that a long run does not flood a log."""


def show_error(message: str) -> None:
    """Write an error message to stderr."""
    err.print(Text.assemble(("error:", "bold red"), " ", shown(message)), soft_wrap=True)


def note(message: str) -> None:
    """Write a remark to stderr."""
    err.print(Text(shown(message), style="dim"), soft_wrap=True)


def line(text: str, *, redact: bool = True) -> None:
    """Write a line to stdout; without `redact`, a secret that the command itself has made stays in it."""
    out.print(Text(shown(text) if redact else visible(text)), soft_wrap=True)


def show_json(value: Any, *, redact: bool = True) -> None:
    """Write a result to stdout as JSON; `redact` as in `line`."""
    text = json.dumps(value, indent=2)
    if redact:
        text = redacted(text)
    if out.is_terminal:
        out.print_json(text, ensure_ascii=True)
    else:
        out.file.write(text + "\n")


def show_json_line(value: Any) -> None:
    """Write a result to stdout as JSON on one line, so that several can follow each other."""
    out.file.write(redacted(json.dumps(value)) + "\n")
    out.file.flush()


def table(title: str, *, columns: Sequence[str], rows: Sequence[Sequence[str]], most_lines: int | None = None) -> int:
    """Write a table to stdout; the first column is text, the others are numbers.

    Args:
        title: line above the table.
        columns: names of the columns.
        rows: cells of each row; long ones take several lines.
        most_lines: lines of the table at most, one row aside; rows that do not fit are left out. None: any number.

    Returns:
        The number of rows that are shown.
    """
    out.print(Text(shown(title), style="bold"), soft_wrap=True)
    count, grid = len(rows), _grid(columns, rows)
    while most_lines is not None and count > 1 and (lines := len(out.render_lines(grid))) > most_lines:
        count = max(1, min(count - 1, count * most_lines // lines))
        grid = _grid(columns, rows[:count])
    out.print(grid)
    return count


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    grid = Table()
    for i, column in enumerate(columns):
        grid.add_column(Text(shown(column)), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(shown(cell)) for cell in row))
    return grid


@contextmanager
def progress_bar(label: str, *, total: int | None) -> Iterator[Progress]:
    """Show one bar for work that is not a pipeline stage; call `advance(progress.task_ids[0], n)`."""
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
def training_progress(total: int) -> Iterator[Callable[[int, float], None]]:
    """Show the progress of a training.

    Yields:
        A function to call with the number of steps done and the loss of the last one.
    """
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
    """Progress of a training as one line every ten seconds, and one at the end."""

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
        remaining = (now - self._start) / done * (self._total - done)
        note(f"train: {done} of {self._total} steps, loss {loss:.4f}, about {remaining:.0f} s left")

    def end(self) -> None:
        seconds = time.monotonic() - self._start
        note(f"train: {self._done} of {self._total} steps in {seconds:.1f} s, loss {self._loss:.4f}")
