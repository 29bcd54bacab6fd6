"""The executor protocol, and its simplest implementation.

Contract: every task given to `map` comes back as exactly one report, in any order. A task that raises comes back as a
failed report and stops nothing. An executor never inspects a task. It is a context manager, closed on exit:

    with open_cluster("local", workers=4) as executor:
        reports = list(executor.map(work, tasks))
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from ssem_dask.task import Task, TaskReport

Work: TypeAlias = Callable[[Task], TaskReport]


@dataclass(frozen=True, slots=True)
class ExecutorLoad:
    """Current load of an executor."""

    running: int
    """Tasks that run."""
    workers: int
    """Workers alive."""
    gpus: int = 0
    """Workers with a GPU, among those alive."""
    gpu_threads: int = 1
    """Tasks that a worker with a GPU runs at once."""


class Executor(Protocol):
    """Runs tasks somewhere."""

    @property
    def dashboard(self) -> str | None:
        """Address of a page about the workers, if there is one."""
        ...

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task and yield the reports as tasks end; `tasks` is consumed lazily."""
        ...

    def load(self) -> ExecutorLoad:
        """Return the current load; safe to call from any thread."""
        ...

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """Publish the numbers of `StageProgress.numbers` as metrics, if the executor has a server for them."""
        ...

    def close(self) -> None:
        """Release everything that the executor holds; no task runs afterwards."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def dashboard_message(executor: Executor) -> str | None:
    """Return a line with the address of the dashboard, or None if there is no dashboard."""
    if not executor.dashboard:
        return None
    metrics = executor.dashboard.removesuffix("/status") + "/metrics"
    return f"Dashboard: {executor.dashboard} (metrics for Prometheus: {metrics})"


class SerialExecutor(Executor):
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
        """Return one worker: this process."""
        return ExecutorLoad(running=self._running, workers=1)

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """Do nothing: there is no server that could show the numbers."""

    def close(self) -> None:
        """Do nothing: nothing is held."""
