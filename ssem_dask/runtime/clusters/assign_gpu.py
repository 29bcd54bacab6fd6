"""Preload of a worker that shares a job or a machine with others: restrict it to one of the GPUs that it sees.

The n-th worker, by the number at the end of its name, takes the n-th GPU. This runs before the first task, so before
CUDA reads `CUDA_VISIBLE_DEVICES`.
"""

import os
from typing import Any

from ssem_dask.runtime.clusters.devices import named_gpus


def dask_setup(worker: Any) -> None:
    """Set up the worker; called by Dask when it starts.

    Raises:
        RuntimeError: there are fewer GPUs than workers; the worker does not start.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = assign_gpu(str(worker.name), named_gpus())


def assign_gpu(worker: str, gpus: list[str]) -> str:
    """Return the GPU of a worker.

    Args:
        worker: name of the worker, ending in `-n`; other names take the first GPU.
        gpus: names of the GPUs of the job or machine.

    Raises:
        RuntimeError: there are fewer GPUs.
    """
    number = worker.rpartition("-")[2]
    index = int(number) if number.isdecimal() else 0
    if index >= len(gpus):
        raise RuntimeError(f"worker {worker}: wants GPU number {index}, but only {len(gpus)} are visible")
    return gpus[index]
