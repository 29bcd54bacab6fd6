"""The GPUs that this process may use, by the names that `CUDA_VISIBLE_DEVICES` gives them."""

import os

import torch


def visible_gpus() -> list[str]:
    """Names of the visible CUDA GPUs: indices, or UUIDs where the variable holds these; empty where there is none."""
    count = torch.cuda.device_count()  # asks the driver; starts no CUDA context in this process
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(index) for index in range(count)])[:count]
