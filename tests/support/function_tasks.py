"""Tasks that call a function, for tests of executors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ssem_dask.geometry.region import Footprint
from ssem_dask.task import Result, Task

Work = Callable[[Task], Result]


def do_nothing(task: Task) -> Result:
    """Return an empty result."""
    del task
    return Result()


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTask(Task):
    """A task that calls a function of a module, and reads and writes nothing of a run."""

    work: Work = do_nothing

    def run(self) -> Result:
        """Call the function."""
        return self.work(self)

    def footprint(self) -> Footprint:
        """Nothing of a run."""
        return Footprint(reads=(), writes=())


def running(work: Work, tasks: Iterable[FunctionTask]) -> Iterator[FunctionTask]:
    """Yield the tasks, each of which calls `work`."""
    return (replace(task, work=work) for task in tasks)
