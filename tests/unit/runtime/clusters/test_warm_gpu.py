"""Libraries that a worker with a GPU loads before its first window."""

import logging
import threading
from types import SimpleNamespace

import pytest
import torch

from ssem_dask.registration.methods import register_window
from ssem_dask.registration.registration_method import PairFields
from ssem_dask.runtime.clusters import warm_gpu


def ended(name: str) -> None:
    """Wait for the thread of a worker."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(60)
            assert not thread.is_alive()


def test_it_runs_through_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the same calls are made; nothing of them may be refused."""
    called: list[PairFields] = []
    monkeypatch.setattr(warm_gpu, "register_window", lambda *a, **k: called.append(register_window(*a, **k)))
    warm_gpu.warm(torch.device("cpu"))
    assert called[0].fields.shape == (3, 2, 2, 16, 16)


def test_a_worker_that_has_no_gpu_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_gpu, "compute_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(warm_gpu, "warm", lambda device: pytest.fail(f"it registered on {device}"))
    warm_gpu.dask_setup(SimpleNamespace(name="gpu-0-0"))
    ended("warm-gpu gpu-0-0")


def test_what_goes_wrong_is_left_to_the_tasks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(device: torch.device) -> None:
        raise torch.OutOfMemoryError(f"none left on {device}")

    monkeypatch.setattr(warm_gpu, "compute_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(warm_gpu, "warm", refused)
    with caplog.at_level(logging.INFO):
        warm_gpu.dask_setup(SimpleNamespace(name="gpu-0-1"))
        ended("warm-gpu gpu-0-1")
    assert "none left on cuda" in caplog.text
