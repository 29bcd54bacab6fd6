"""The window of the Dask executor: tasks in flight, tasks that wait for a place, and how long a task may take."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from ssem_dask.task import Task

IN_FLIGHT_PER_THREAD = 2
_FIRST_DEADLINE_S = 3600.0
"""Deadline while no task of the stage has ended."""
_MIN_DEADLINE_S = 600.0
_DEADLINE_FACTOR = 20.0
"""Deadline, as a multiple of the longest task of the stage so far."""


@dataclass(slots=True)
class Flight:
    """A task in flight."""

    task: Task
    future: Any
    """Dask's future of the task's report."""
    submitted: float
    started: float | None = None
    worker: str = ""
    tries: int = 1
    """Times that it was submitted; the deaths of its workers do not count."""
    asked: float = field(init=False)
    """Time at which the scheduler was last asked about it."""

    def __post_init__(self) -> None:
        self.asked = self.submitted

    def is_overdue(self, now: float, seconds: float) -> bool:
        """Return whether the task has reached its deadline; one that was not announced may have waited at its worker.

        Args:
            now: time, on the clock of `submitted`.
            seconds: seconds that a task may run.
        """
        if self.started is not None:
            return now - self.started > seconds
        return now - self.submitted > (1 + IN_FLIGHT_PER_THREAD) * seconds


@dataclass(slots=True)
class Deadline:
    """Time limit of the tasks of a stage."""

    configured: float | None
    longest: float = 0.0
    """Seconds of the longest task so far."""

    @property
    def seconds(self) -> float:
        """Seconds that a task may run."""
        if self.configured is not None:
            return self.configured
        return max(_MIN_DEADLINE_S, _DEADLINE_FACTOR * self.longest) if self.longest else _FIRST_DEADLINE_S


@dataclass(slots=True)
class Window:
    """Tasks in flight, and tasks that wait for a free place."""

    waiting: Iterator[Task]
    resubmit: deque[Flight] = field(default_factory=deque)
    flights: dict[str, Flight] = field(default_factory=dict)
    ended: "SimpleQueue[Any]" = field(default_factory=SimpleQueue)
    """Futures of tasks that have ended, in any order; one may be there twice."""
