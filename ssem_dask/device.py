"""Where a worker computes: on the CPU, or on the one GPU that it was given.

`SSEM_DASK_DEVICE` decides: `cpu`, `cuda`, or `auto` (not set: the same), which is the GPU where torch sees one. The
local cluster of CPU workers sets it to `cpu`, so that many workers do not share a GPU by accident; results do not depend
on it but for rounding, so it is no part of a run's configuration.
"""

import os
import threading

import torch

from ssem_dask.errors import ConfigError

VARIABLE = "SSEM_DASK_DEVICE"
"""Name of the environment variable."""

CPU = torch.device("cpu")

turn = threading.RLock()
"""Held while a task computes on the GPU: of a worker's threads one computes while others read and write, so that its
GPU memory is that of one task."""


def compute_device() -> torch.device:
    """The device of this process.

    Raises:
        ConfigError: the variable asks for a GPU that torch does not see, or says something else.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted == "cpu":
        return CPU
    if wanted not in ("auto", "cuda"):
        raise ConfigError(f"{VARIABLE} is {wanted!r}, but cpu, cuda or auto is wanted; set one of these.")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if wanted == "cuda":
        raise ConfigError(
            f"{VARIABLE} is 'cuda', but torch sees no CUDA GPU here; set it to cpu, or see that torch was installed with "
            "CUDA and the driver works."
        )
    return CPU
