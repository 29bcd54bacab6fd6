"""Events of a run in progress, and who receives them."""

from dataclasses import dataclass
from typing import Protocol

from ssem_dask.task import TaskReport


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """Start of a stage."""

    stage: str
    tasks: int
    """All tasks of the stage."""
    pixels: int
    """Source pixels (mip 0) of all its tasks."""
    done_tasks: int
    """Tasks that earlier runs completed."""
    done_pixels: int


class Observer(Protocol):
    """Receives the events of a run, in the driver's thread, in the order in which they happen."""

    def stage_started(self, event: StageStarted) -> None:
        """Receive the start of a stage."""
        ...

    def task_ended(self, report: TaskReport) -> None:
        """Receive the end of a task of the current stage."""
        ...

    def stage_ended(self, stage: str) -> None:
        """Receive the end of a stage: every task of it has ended."""
        ...

    def note(self, message: str) -> None:
        """Receive a decision or a warning that the user should read once."""
        ...


class SilentObserver:
    """An observer that ignores all events."""

    def stage_started(self, event: StageStarted) -> None:
        """Ignore the start of a stage."""

    def task_ended(self, report: TaskReport) -> None:
        """Ignore the end of a task."""

    def stage_ended(self, stage: str) -> None:
        """Ignore the end of a stage."""

    def note(self, message: str) -> None:
        """Ignore a note."""
