"""The GPUs that this process may use, by the names that `CUDA_VISIBLE_DEVICES` gives them."""

import os

import torch


def visible_gpus() -> list[str]:
    """Return the names of the CUDA GPUs that torch can use: indices, or UUIDs if the variable holds these."""
    return named_gpus()[: torch.cuda.device_count()]


def gpu_memory() -> int | None:
    """Return the bytes of the smallest GPU that this process may use; None if it has none."""
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes, default=None)


def named_gpus() -> list[str]:
    """Return the names of the CUDA GPUs in the variable, or of all GPUs of the driver if it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return [str(index) for index in range(torch.cuda.device_count())]  # starts no CUDA context in this process
    return [name.strip() for name in value.split(",") if name.strip()]
