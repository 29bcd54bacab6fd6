"""Registration of pairs on GPUs: the equations of `gauss_newton` in few kernels and one CUDA graph.

Its modules import Triton, which comes with torch for CUDA alone: import them only if `kernels_run_on` is True.
"""

import importlib.util

import torch


def kernels_run_on(device: torch.device) -> bool:
    """Check whether the kernels can be used on a device."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None
