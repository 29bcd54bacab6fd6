"""Progress of a call from Python: one line per stage on stderr, which a notebook shows below its cell."""

import sys
import time

from ssem_dask.runtime.events import StageStarted
from ssem_dask.task import Outcome, TaskReport
from ssem_dask.units import plural

_SECONDS = 1.0
"""Time between two changes of a line."""


class StageLines:
    """An observer that rewrites one line per stage: `register: 3 of 12 tasks`."""

    def __init__(self) -> None:
        """Begin without a stage."""
        self._stage, self._tasks, self._done, self._failed, self._shown = "", 0, 0, 0, 0.0

    def stage_started(self, event: StageStarted) -> None:
        """Begin a line."""
        self._stage, self._tasks, self._done, self._failed = event.stage, event.tasks, event.done_tasks, 0
        self._show()

    def task_ended(self, report: TaskReport) -> None:
        """Count a task."""
        self._done += report.outcome is not Outcome.FAILED
        self._failed += report.outcome is Outcome.FAILED
        if time.monotonic() - self._shown > _SECONDS:
            self._show()

    def stage_ended(self, stage: str) -> None:
        """End the line."""
        del stage
        self._show(end="\n")

    def note(self, message: str) -> None:
        """Show a note on lines of its own."""
        sys.stderr.write(f"\n{message}\n" if self._stage and self._done < self._tasks else f"{message}\n")

    def _show(self, end: str = "") -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        sys.stderr.write(f"\r{self._stage}: {self._done} of {plural(self._tasks, 'task')}{failed}{end}")
        sys.stderr.flush()
        self._shown = time.monotonic()
