"""A batch that the GPU cannot hold is halved until it fits; a single item that does not fit fails with that cause."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.field import device
from ssem_dask.field.device import computing_on, in_batches
from ssem_dask.runtime.execute import execute
from ssem_dask.task import Cause, Outcome, Result, Task
from tests.support.function_tasks import FunctionTask

pytestmark = pytest.mark.slow


@settings(max_examples=25)  # what failed is collected as garbage, which takes its time
@given(items=st.lists(st.integers()), size=st.integers(1, 9), room=st.integers(1, 9))
def test_batches_are_all_items_in_order_and_fit(items: list[int], size: int, room: int) -> None:
    tried: list[int] = []

    def double(batch: Sequence[int]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [2 * item for item in batch]

    found = [(list(batch), doubled) for batch, doubled in in_batches(double, items, size=size)]
    assert [item for batch, _ in found for item in batch] == items
    assert [item for _, doubled in found for item in doubled] == [2 * item for item in items]
    assert all(len(batch) <= min(size, room) for batch, _ in found)
    assert sum(count > room for count in tried) <= 4  # once it was too large, it is never as large again


def test_an_attempt_that_failed_holds_nothing_any_more() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1

        def __del__(self) -> None:
            Held.alive -= 1

    seen: list[int] = []

    def hold(batch: Sequence[int]) -> None:
        seen.append(Held.alive)
        held = [Held() for _ in batch]
        if len(held) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    list(in_batches(hold, [1, 2, 3, 4], size=4))
    assert seen == [0] * 6  # 4, 2, then four times 1


def too_large(task: Task) -> Result:
    def run(batch: Sequence[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    list(in_batches(run, range(8), size=8))
    return Result()


def test_a_single_item_that_does_not_fit_fails_with_that_cause(tmp_path: Path) -> None:
    report = execute(FunctionTask(key="register/0", output=str(tmp_path), digest="d", pixels=1, work=too_large))
    assert report.outcome is Outcome.FAILED
    assert report.cause is Cause.GPU_OUT_OF_MEMORY


@pytest.mark.parametrize(("device", "most"), [("cuda", 1), ("cpu", 3)])
def test_the_gpu_is_one_tasks_at_a_time(device: str, most: int) -> None:
    inside, seen, together = [0], [0], threading.Barrier(3)

    def task() -> None:
        together.wait()
        with computing_on(torch.device(device)):
            inside[0] += 1
            seen[0] = max(seen[0], inside[0])
            time.sleep(0.1)
            inside[0] -= 1

    threads = [threading.Thread(target=task) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] == most


def test_releasing_memory_frees_what_is_kept_for_later_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_KEEPERS", [])
    freed = list[str]()
    device.freed_on_release(lambda: freed.append("solvers"))
    device.release_gpu_memory()
    assert freed == ["solvers"]
