"""Preload of a worker with a GPU: load the libraries and kernels of registration before the first window arrives.

CUDA libraries are loaded at their first call, and kernels are compiled at their first run on a machine. That takes many
seconds. The first stage of a run, `coarse`, does not use the GPU; a thread warms it up meanwhile.
"""

import logging
import threading
from typing import Any

import torch

from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.gauss_newton_window import measure_scales
from ssem_dask.registration.methods import RegisterConfig, register_window, resolve
from ssem_dask.registration.registration_method import PairRequest, WindowImages

_LOG = logging.getLogger(__name__)
_SIDE = 256  # px
_SECTIONS = 5  # gives pairs of every distance, including those that start from composed fields


def dask_setup(worker: Any) -> None:
    """Start to warm up; called by Dask when the worker starts, after the preload that assigns its GPU."""
    threading.Thread(target=_warm, name=f"warm-gpu {worker.name}", daemon=True).start()


def warm(device: torch.device) -> None:
    """Register some sections of noise like the stages calibrate and register.

    Args:
        device: device on which registration will run.
    """
    images = torch.rand(_SECTIONS, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    valid = torch.ones_like(images, dtype=torch.bool)
    window = WindowImages(images=images, valid=valid, grid=Grid((_SIDE, _SIDE), 1.0))
    config = resolve(RegisterConfig(), pixel_size=5.0)
    neighbours = config.neighbours
    measure_scales(window, neighbours=neighbours, config=config.gauss_newton, device=device)
    nodes = Grid((_SIDE // 16, _SIDE // 16), 16.0)
    request = PairRequest(nodes=nodes, core=range(neighbours, _SECTIONS), neighbours=neighbours)
    register_window(window, request, config=config, device=device)


def _warm() -> None:
    try:
        device = compute_device()
        if device.type == "cpu":
            return
        with computing_on(device):
            warm(device)
    except Exception as error:  # noqa: BLE001  optional: a task that meets the same error reports it
        _LOG.info("The GPU was not warmed up: %s", error)
