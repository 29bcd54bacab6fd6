"""Tasks for a cluster whose number of workers changes."""

import time
from collections.abc import Iterator
from pathlib import Path

from ssem_dask.runtime.distributed import DaskExecutor
from tests.support.function_tasks import FunctionTask


def until_there_are(workers: int, executor: DaskExecutor, *, stage: str, output: Path) -> Iterator[FunctionTask]:
    """Tasks as long as there are not so many workers, and at least one."""
    deadline, number = time.monotonic() + 120, 0
    while number == 0 or (executor.load().workers != workers and time.monotonic() < deadline):
        yield FunctionTask(key=f"{stage}/{number:05d}", output=str(output), digest="d", pixels=1)
        number += 1
