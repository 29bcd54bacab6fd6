"""The executor protocol, and the simplest implementation of it.

Contract: every task given comes back as exactly one report; the order is not promised; a task that raises comes back as
a failed report and stops nothing. An executor never looks into a task.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ssem_dask.task import Task, TaskReport

Work: TypeAlias = Callable[[Task], TaskReport]


@dataclass(frozen=True, slots=True)
class ExecutorLoad:
    """What an executor is at."""

    running: int
    """Tasks that run."""
    workers: int
    """Workers alive."""
    gpus: int = 0
    """Of these, workers with a GPU."""


class Executor(Protocol):
    """Runs tasks somewhere."""

    @property
    def dashboard(self) -> str | None:
        """Address of a page about the workers, if there is one."""
        ...

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task and yield the reports as they come; `tasks` is consumed lazily."""
        ...

    def load(self) -> ExecutorLoad:
        """What it is at; may be asked from any thread."""
        ...

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """Show the numbers of `StageProgress.numbers` as metrics, where the executor has a place for them."""
        ...

    def close(self) -> None:
        """Give back whatever the executor holds; no task runs afterwards."""
        ...


def dashboard_message(executor: Executor) -> str | None:
    """A line about where to look, if there is a dashboard."""
    if not executor.dashboard:
        return None
    metrics = executor.dashboard.removesuffix("/status") + "/metrics"
    return f"Dashboard: {executor.dashboard} (metrics for Prometheus: {metrics})"


class SerialExecutor:
    """Runs one task after another in this process."""

    dashboard: str | None = None

    def __init__(self) -> None:
        self._running = 0

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task in turn."""
        for task in tasks:
            self._running = 1
            try:
                report = work(task)
            finally:
                self._running = 0
            yield report

    def load(self) -> ExecutorLoad:
        """One worker: this process."""
        return ExecutorLoad(running=self._running, workers=1)

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """There is no server that could show them."""

    def close(self) -> None:
        """Nothing is held."""
