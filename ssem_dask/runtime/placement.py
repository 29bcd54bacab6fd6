"""Placement: which workers the tasks of a stage go to.

In a cluster with workers labelled `GPU`, stages that compute on a GPU go to these workers alone. Other stages go to any
worker, and compute on its CPU even if it has a GPU. So results do not depend on which worker was free.

On one kind of device, runs repeat to the bit. GPUs and CPUs round differently, and registration can amplify this: a
difference in the last digit of the coarse affines becomes up to about 0.1 px at single nodes. Digests do not include
the device, so a run that is continued on another kind of device has results of both.

A worker with the label sees exactly one GPU (`CUDA_VISIBLE_DEVICES`), which it may share with other workers. A worker
of `local`, and a worker of `local-gpu` without the label, sees none. So these stages compute on a GPU if and only if
torch sees one in their process.
"""

from collections.abc import Mapping
from typing import Any

GPU = "GPU"
"""Label of a worker that has a GPU; its amount is 1."""
GPU_SHARE = 1 / 64
"""Amount of the label that a task takes: so little that only a worker's threads limit how many tasks run at once.
Tasks take turns on the GPU itself (`field.device.computing_on`)."""
GPU_THREADS = 3
"""Tasks at once that keep a GPU busy: one reads, one computes, one writes. They are threads of one worker, or workers
that share the GPU."""


def task_labels(*, uses_gpu: bool, has_gpus: bool, cluster_labels: Mapping[str, float]) -> dict[str, float]:
    """Return the labels, each with the amount that a task takes, of the workers that may run a task.

    Args:
        uses_gpu: whether the task computes on a GPU if its worker has one.
        has_gpus: whether the cluster has workers labelled `GPU`.
        cluster_labels: `[cluster] resources`; these apply to every task and take precedence.
    """
    gpu_label = {GPU: GPU_SHARE} if has_gpus and uses_gpu else {}
    return {**gpu_label, **cluster_labels}


def has_labels(worker: Mapping[str, Any], labels: Mapping[str, float]) -> bool:
    """Return whether a worker, as the scheduler describes it, can be given tasks that take `labels`."""
    return all(worker["resources"].get(name, 0) >= amount for name, amount in labels.items())
