"""Small runs to which sections are appended, in this process."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssem_dask.config.schema import make_config
from ssem_dask.driver import append
from ssem_dask.driver.append import AppendPlan, execute_append, plan_append
from ssem_dask.driver.pipeline import plan, run
from ssem_dask.driver.run_status import Summary
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import Executor, SerialExecutor, Work
from ssem_dask.storage.arrays import open_array
from ssem_dask.task import Task, TaskReport
from ssem_dask.types import AnyArray
from tests.support.fixed_runs import SHALLOW

QUICK: dict[str, Any] = {
    **SHALLOW,
    "coarse": {"search": False, "neighbours": 2},
    "register": {"neighbours": 2},
    "compose": {"relax": {"neighbours": 2, "rounds": 2, "iterations": 4}},
}
"""Without the wide search, which sections this small need often, and with fewer pairs and rounds."""
RESULTS = "fields/section", "aligned/0", "fields/coarse", "quality/sections"


def few_sections() -> Iterator[None]:
    """Let statistics of few sections be kept, so that tests are quick."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(append, "LEAST_FITTED", 16)
        patch.setattr(append, "FEW_FITTED", 16)
        yield


def align(source: str, output: Path) -> str:
    config = make_config({"source": source, "output": str(output), **QUICK}, where="test")
    assert run(plan(config), executor=SerialExecutor(), observer=SilentObserver()).state == "complete"
    return str(output)


def extend(
    output: str, source: str | None, *, executor: Executor | None = None, **options: Any
) -> tuple[AppendPlan, Summary]:
    planned = plan_append(output, source, **options)
    return planned, execute_append(planned, executor=executor or SerialExecutor(), observer=SilentObserver())


def read(output: str, path: str) -> AnyArray:
    return np.asarray(open_array(f"{output}/{path}", mode="r")[:])


def assert_same(one: str, other: str) -> None:
    for path in RESULTS:
        np.testing.assert_array_equal(read(one, path), read(other, path), err_msg=path)


class InterruptedExecutor(SerialExecutor):
    """Is interrupted after some tasks."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self._left = tasks

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        for report in super().map(work, tasks):
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
            yield report


def extend_until_killed(output: str, source: str, changes: int) -> None:
    """Append in a process of its own, which is killed (SIGKILL) when it makes so many changes of files and one more.

    A change is a file that is opened for writing, renamed or removed, so kills come before and between the two halves
    of a write.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_extend_and_die, args=(output, source, changes))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def _extend_and_die(output: str, source: str, changes: int) -> None:
    left = changes

    def die(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open":
            is_change = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        else:
            is_change = event in ("os.rename", "os.link", "os.remove", "os.rmdir")
        if is_change and str(arguments[0]).startswith(output):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    for _ in few_sections():
        extend(output, source)
