"""The GPUs that this process may use, by the names that `CUDA_VISIBLE_DEVICES` gives them."""

import os

import torch


def visible_gpus() -> list[str]:
    """Names of the CUDA GPUs that torch can use: indices, or UUIDs where the variable holds these; may be empty."""
    return named_gpus()[: torch.cuda.device_count()]


def gpu_memory() -> int | None:
    """Bytes of the GPU that has least of those that this process may use; None if it has none."""
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes, default=None)


def named_gpus() -> list[str]:
    """Names of the CUDA GPUs in the variable, or of all that the driver shows where it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return [str(index) for index in range(torch.cuda.device_count())]  # starts no CUDA context in this process
    return [name.strip() for name in value.split(",") if name.strip()]
