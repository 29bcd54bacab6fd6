"""The executor protocol, and the simplest implementation of it.

Contract: every task given comes back as exactly one report; the order is not promised; a task that raises comes back as
a failed report and stops nothing. An executor never looks into a task.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from ssem_dask.task import Task, TaskReport

Work: TypeAlias = Callable[[Task], TaskReport]


class Executor(Protocol):
    """Runs tasks somewhere."""

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task and yield the reports as they come; `tasks` is consumed lazily."""
        ...

    def close(self) -> None:
        """Give back whatever the executor holds; no task runs afterwards."""
        ...


class SerialExecutor:
    """Runs one task after another in this process."""

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task in turn."""
        for task in tasks:
            yield work(task)

    def close(self) -> None:
        """Nothing is held."""
