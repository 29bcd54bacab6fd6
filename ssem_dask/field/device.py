"""Device of a process: the CPU, or the one GPU that it sees, on which one window is registered at a time.

A worker has one GPU, which it may share with other workers, and several threads, so that one task computes while others
read and write. `computing_on` is held while a window is registered, which takes most of the memory; sections are
resampled on the GPU without holding it.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_GPU = threading.Lock()
_KEEPERS: list[Callable[[], None]] = []
"""Functions that free what a process keeps on its GPU for later tasks."""
CPU = torch.device("cpu")
_CPU_BATCH, _GPU_BATCH = 1 << 16, 1 << 22
"""Nodes per batch of planes: as many as fit a CPU's caches, and as many as occupy a GPU."""


def compute_device() -> torch.device:
    """Return the GPU that this process sees (of several the first), or the CPU.

    Workers of the local cluster see no GPU, those of `local-gpu` one each (`CUDA_VISIBLE_DEVICES`). CPU and GPU results
    differ by rounding, which registration can amplify (`runtime.placement`). The device is not part of a run's
    configuration or digests.
    """
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU


def plane_batches(items: Tensor, *, like: Tensor) -> tuple[Tensor, ...]:
    """Split items `(n, …)` into batches of the size with which a device computes best.

    Args:
        items: one per plane.
        like: `(…, y, x)`, gives the size and the device of the planes.
    """
    limit = _CPU_BATCH if like.device.type == "cpu" else _GPU_BATCH
    return torch.split(items, max(1, limit // (like.shape[-2] * like.shape[-1])))


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Hold the GPU exclusively among this process's threads (other workers may share it); do nothing for a CPU."""
    if device.type == "cpu":
        yield
        return
    with _GPU:
        yield


def in_batches(
    run: Callable[[Sequence[_Item]], _Result], items: Sequence[_Item], *, size: int
) -> Iterator[tuple[Sequence[_Item], _Result]]:
    """Run a function on batches of items, in order; if the GPU cannot hold a batch, on halves of it.

    Args:
        run: function of a batch, whose items must not affect each other.
        items: all items.
        size: items per batch; once a batch was too large, all later ones are as small as it became.

    Yields:
        Each batch and its result.

    Raises:
        torch.OutOfMemoryError: a single item is too large.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        result = _try_batch(run, batch)
        if result is None:
            # The memory of the attempt can be freed only now that its exception and the frames in it are gone.
            release_gpu_memory()
            size = (len(batch) + 1) // 2
            continue
        start += len(batch)
        yield batch, result[0]


def freed_on_release(free: Callable[[], None]) -> None:
    """Have `release_gpu_memory` call a function that frees what is kept on the GPU for later tasks."""
    _KEEPERS.append(free)


def release_gpu_memory() -> None:
    """Free what is kept on the GPU for later tasks, and the memory that torch keeps without using it."""
    for free in _KEEPERS:
        free()
    gc.collect()
    torch.cuda.empty_cache()  # does nothing if no GPU was used


def _try_batch(run: Callable[[Sequence[_Item]], _Result], batch: Sequence[_Item]) -> tuple[_Result] | None:
    """Return the result of a batch in a tuple; None if it did not fit and can be halved."""
    try:
        return (run(batch),)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        return None
