"""Progress of a call from a notebook: one bar per stage below the cell."""

import html
import sys
import time
from typing import Any

from ssem_dask.runtime.events import StageStarted
from ssem_dask.task import Outcome, TaskReport
from ssem_dask.units import plural

_SECONDS = 0.5
"""Time between two changes of what is shown."""


def in_notebook() -> bool:
    """Return whether a notebook shows what this process displays."""
    return "ipykernel" in sys.modules and _shell() is not None


class StageBars:
    """An observer that shows a bar per stage, by IPython, which every notebook has."""

    def __init__(self) -> None:
        """Begin without a stage; nothing is shown before the first one."""
        self._stages: dict[str, list[int]] = {}  # tasks, done, failed
        self._notes: list[str] = []
        self._handle: Any = None
        self._shown = 0.0

    def stage_started(self, event: StageStarted) -> None:
        """Add a bar."""
        self._stages[event.stage] = [event.tasks, event.done_tasks, 0]
        self._show()

    def task_ended(self, report: TaskReport) -> None:
        """Count a task."""
        counts = self._stages[report.stage]
        failed = report.outcome is Outcome.FAILED
        counts[1] += not failed
        counts[2] += failed
        if time.monotonic() - self._shown > _SECONDS:
            self._show()

    def stage_ended(self, stage: str) -> None:
        """Show the last count."""
        del stage
        self._show()

    def note(self, message: str) -> None:
        """Show a note below the bars."""
        self._notes.append(message)
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        content = HTML(self._html())
        if self._handle is None:
            self._handle = display(content, display_id=True)
        else:
            self._handle.update(content)
        self._shown = time.monotonic()

    def _html(self) -> str:
        rows = "".join(_row(stage, *counts) for stage, counts in self._stages.items())
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self._notes)
        return f"<table>{rows}</table>{notes}"


def _row(stage: str, tasks: int, done: int, failed: int) -> str:
    text = f"{done} of {plural(tasks, 'task')}" + (f", {failed} failed" if failed else "")
    bar = f'<progress value="{done}" max="{max(tasks, 1)}"></progress>'
    return f"<tr><td>{html.escape(stage)}</td><td>{bar}</td><td>{text}</td></tr>"


def _shell() -> Any:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()
