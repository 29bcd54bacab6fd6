"""Which workers the tasks of a stage go to.

Where a cluster has workers labelled `GPU`, stages that compute on one go to these alone; other stages go to any worker,
and compute on its CPU whatever it has. So a result does not hang on which worker was free: a GPU rounds otherwise than
a CPU, and what differs in the last digit of the coarse affines differs by a tenth of a pixel after registration.
A worker with that label sees one GPU and no other (`CUDA_VISIBLE_DEVICES`), which it may share with other workers; a
worker of `local`, and a worker without the label of `local-gpu`, sees none. So these stages compute on a GPU if and
only if torch sees one in their process.
"""

from collections.abc import Mapping
from typing import Any

GPU = "GPU"
"""Label of a worker that has a GPU; its amount is 1."""
GPU_STAGES = frozenset({"calibrate", "register", "compose", "render"})
GPU_SHARE = 1 / 64
"""Of the label, what a task takes: so little that the worker's threads limit how many run at once. They take turns on
the GPU itself (`field.device.computing_on`)."""
GPU_THREADS = 3
"""Threads of a worker with a GPU: one task reads, one computes, one writes."""


def labels_of(stage: str, *, gpus: bool, given: Mapping[str, float]) -> dict[str, float]:
    """Labels, with the amount that a task takes, of the workers that may be given a stage's tasks.

    Args:
        stage: its name.
        gpus: whether the cluster has workers labelled `GPU`.
        given: `[cluster] resources`; hold for every stage and come first.
    """
    own = {GPU: GPU_SHARE} if gpus and stage in GPU_STAGES else {}
    return {**own, **given}


def has_labels(worker: Mapping[str, Any], labels: Mapping[str, float]) -> bool:
    """Whether a worker, as the scheduler describes it, can be given tasks that take `labels`."""
    return all(worker["resources"].get(name, 0) >= amount for name, amount in labels.items())
