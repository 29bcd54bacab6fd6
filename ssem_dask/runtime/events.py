"""What a run tells the world while it goes on."""

from dataclasses import dataclass
from typing import Protocol

from ssem_dask.task import TaskReport


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage begins."""

    stage: str
    tasks: int
    """All tasks of the stage."""
    pixels: int
    """Source pixels (mip 0) of all its tasks."""
    done_tasks: int
    """Tasks that an earlier run has already done."""
    done_pixels: int


class Observer(Protocol):
    """Receives the events of a run, in the driver's thread, in the order they happen."""

    def stage_started(self, event: StageStarted) -> None:
        """A stage begins."""
        ...

    def task_ended(self, report: TaskReport) -> None:
        """A task of the current stage has ended."""
        ...

    def stage_ended(self, stage: str) -> None:
        """Every task of the stage has ended."""
        ...

    def note(self, message: str) -> None:
        """A decision or a warning that the user should read once."""
        ...


class SilentObserver:
    """An observer that says nothing."""

    def stage_started(self, event: StageStarted) -> None:
        """Say nothing."""

    def task_ended(self, report: TaskReport) -> None:
        """Say nothing."""

    def stage_ended(self, stage: str) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""
