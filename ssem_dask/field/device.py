"""Where a process computes: on the CPU, or on the one GPU that it sees, where registration takes turns.

A worker has one GPU, which it may share with other workers, and several threads, so that one task computes while others
read and write. `computing_on` is held while a window is registered, which takes most of the memory; sections are
resampled on the GPU without a turn.
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
CPU = torch.device("cpu")
_CACHED, _LAUNCHED = 1 << 16, 1 << 22
"""Nodes of the planes that are computed at a time: what a CPU's caches hold, what keeps a GPU busy."""


def compute_device() -> torch.device:
    """The GPU that this process sees (of several the first), or the CPU.

    Workers of the local cluster see none, those of `local-gpu` one each (`CUDA_VISIBLE_DEVICES`). Results depend on it
    by rounding only, so it is no part of a run's configuration.
    """
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU


def plane_batches(items: Tensor, *, like: Tensor) -> tuple[Tensor, ...]:
    """Cut items `(n, …)` into as many at a time as a device computes best with.

    Args:
        items: each stands for a plane.
        like: `(…, y, x)`, one of the planes and where it is.
    """
    limit = _CACHED if like.device.type == "cpu" else _LAUNCHED
    return torch.split(items, max(1, limit // (like.shape[-2] * like.shape[-1])))


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Have the GPU to oneself among this process's threads (other workers may share it); on a CPU nobody waits."""
    if device.type == "cpu":
        yield
        return
    with _GPU:
        yield


def in_batches(
    run: Callable[[Sequence[_Item]], _Result], items: Sequence[_Item], *, size: int
) -> Iterator[tuple[Sequence[_Item], _Result]]:
    """Run a function on batches of items, in order; where the GPU cannot hold a batch, on halves of it.

    Args:
        run: takes a batch, whose items must not see each other.
        items: all of them.
        size: items of a batch; once one was too large, the ones after it are as small as it became.

    Yields:
        Each batch and what came of it.

    Raises:
        torch.OutOfMemoryError: a single item is too large.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        found = _tried(run, batch)
        if not found:
            # What the attempt held is free only now, when its exception and the frames in it are gone.
            release_gpu_memory()
            size = (len(batch) + 1) // 2
            continue
        start += len(batch)
        yield batch, found[0]


def release_gpu_memory() -> None:
    """Give back what torch keeps of the GPU's memory without using it."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU was used


def _tried(run: Callable[[Sequence[_Item]], _Result], batch: Sequence[_Item]) -> tuple[_Result] | None:
    """What came of a batch; None where it did not fit and can be halved."""
    try:
        return (run(batch),)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        return None
