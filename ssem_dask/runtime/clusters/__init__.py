"""Clusters by name: from the value of `--cluster` to an executor.

`cluster_config` lists the names, those of this machine and those that can be resized.
"""

from collections.abc import Callable

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.cluster_config import CLUSTER_NAMES, RESIZABLE, SMALLER_TASKS, ClusterConfig
from ssem_dask.runtime.clusters.devices import visible_gpus
from ssem_dask.runtime.clusters.local import local_share, shares_on_gpus, start_local, start_local_gpu
from ssem_dask.runtime.clusters.scheduler_address import join_scheduler
from ssem_dask.runtime.clusters.slurm import refuse_small_jobs, start_slurm
from ssem_dask.runtime.executor import Executor, SerialExecutor


def open_cluster(
    name: str,
    *,
    workers: int | None,
    settings: ClusterConfig | None = None,
    task_memory: int = 0,
    task_gpu_memory: int = 0,
    note: Callable[[str], None] = lambda _message: None,
) -> Executor:
    """Start or join a cluster.

    Args:
        name: `serial` (this process), `local` (worker processes on this machine), `local-gpu` (for each GPU),
            `slurm` (batch jobs), or a scheduler's address.
        workers: number of workers; what None means depends on the cluster.
        settings: the rest of the `[cluster]` table; its name and workers are ignored. None: the defaults.
        task_memory: bytes that the largest task holds; 0 if unknown.
        task_gpu_memory: bytes of a GPU that the largest task takes; decides how many workers share one.
        note: callback for user-facing messages about the cluster.

    Raises:
        ConfigError: the name is unknown, nothing answers at the address, or the cluster cannot run the tasks.
    """
    settings = settings or ClusterConfig()
    if settings.stage_workers and name not in RESIZABLE:
        raise ConfigError(
            f"[cluster] stage_workers: --cluster {name} cannot be resized; remove stage_workers, or use "
            f"{' or '.join(RESIZABLE)}."
        )
    if name == "serial":
        return SerialExecutor()
    refuse_small_workers(
        name, workers=workers, settings=settings, task_memory=task_memory, task_gpu_memory=task_gpu_memory
    )
    if name == "local":
        return start_local(workers, deadline=settings.deadline, stage_workers=settings.stage_workers)
    if name == "local-gpu":
        return start_local_gpu(
            workers,
            per_gpu=settings.gpu_workers,
            task_memory=task_memory,
            task_gpu_memory=task_gpu_memory,
            deadline=settings.deadline,
        )
    if name == "slurm":
        return start_slurm(settings, workers=workers, task_memory=task_memory, note=note)
    if "://" in name:
        return join_scheduler(name, settings, task_memory=task_memory)
    raise ConfigError(
        f"--cluster {name}: unknown cluster; use {', '.join(CLUSTER_NAMES)} or a scheduler address like "
        "tls://host:8786."
    )


def refuse_small_workers(
    name: str, *, workers: int | None, settings: ClusterConfig, task_memory: int, task_gpu_memory: int = 0
) -> None:
    """Raise ConfigError if a worker could not hold the largest task, without starting anything.

    The workers of a scheduler by address are known, and checked, only when it is joined.

    Args:
        name: name of the cluster.
        workers: number of workers; None: the cluster's default.
        settings: the `[cluster]` table.
        task_memory: bytes of the largest task, including the process that runs it.
        task_gpu_memory: as in `open_cluster`.

    Raises:
        ConfigError: a worker would be too small.
    """
    if name == "slurm":
        refuse_small_jobs(settings.slurm, task_memory=task_memory)
    if name == "local":
        share = local_share(workers, settings.stage_workers)
        which, remedy = "worker", "use fewer --workers"
    elif name == "local-gpu":
        gpus = max(1, len(visible_gpus()[:workers]))  # without any GPU, `start_local_gpu` raises
        # One task per worker must fit: the largest tasks are those that compute on a GPU, where they take turns.
        share = shares_on_gpus(
            gpus, per_gpu=settings.gpu_workers, task_memory=task_memory, task_gpu_memory=task_gpu_memory
        ).worker_memory
        which, remedy = "worker with a GPU", "use a machine with more memory for each core"
    else:
        return
    if share < task_memory:
        raise ConfigError(
            f"--cluster {name}: each {which} has {share / 1e9:.2f} GB of this machine's memory, but the "
            f"largest task needs {task_memory / 1e9:.2f} GB; {remedy}, or {SMALLER_TASKS}."
        )
