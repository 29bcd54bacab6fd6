"""Clusters by name: from what a user writes after `--cluster` to an executor."""

from collections.abc import Callable

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.address import join_scheduler
from ssem_dask.runtime.clusters.config import ClusterConfig
from ssem_dask.runtime.clusters.local import start_local, start_local_gpu
from ssem_dask.runtime.clusters.security import named_security
from ssem_dask.runtime.clusters.slurm import start_slurm
from ssem_dask.runtime.executor import Executor, SerialExecutor

_RESIZED = ("local", "slurm")


def open_cluster(
    name: str,
    *,
    workers: int | None,
    settings: ClusterConfig | None = None,
    task_memory: int = 0,
    note: Callable[[str], None] = lambda _message: None,
) -> Executor:
    """Start or join a cluster.

    Args:
        name: `serial` (this process), `local` (worker processes on this machine), `local-gpu` (one for each GPU),
            `slurm` (batch jobs), or a scheduler's address.
        workers: number of workers; what None means depends on the cluster.
        settings: the rest of the `[cluster]` table; its name and workers do not count. None: the defaults.
        task_memory: bytes that the largest task holds; 0 where that is not known.
        note: told what a user may want to know of the cluster's own doings.

    Raises:
        ConfigError: an unknown name, nobody answers at the address, or the cluster cannot do the run.
    """
    settings = settings or ClusterConfig()
    if settings.stage_workers and name not in _RESIZED:
        raise ConfigError(
            f"[cluster] stage_workers: the number of workers of --cluster {name} is not ours to change; leave it "
            f"out, or use {' or '.join(_RESIZED)}."
        )
    stage_workers: dict[str, int] = {str(stage): wanted for stage, wanted in settings.stage_workers.items()}
    if name == "serial":
        return SerialExecutor()
    if name == "local":
        return start_local(workers, deadline=settings.deadline, stage_workers=stage_workers)
    if name == "local-gpu":
        return start_local_gpu(workers, deadline=settings.deadline)
    if name == "slurm":
        return start_slurm(
            settings.slurm,
            workers=workers,
            tls=settings.tls,
            wait_minutes=settings.wait_minutes,
            resources=settings.resources,
            task_memory=task_memory,
            deadline=settings.deadline,
            stage_workers=stage_workers,
            note=note,
        )
    if "://" in name:
        return join_scheduler(
            name,
            security=named_security(settings.tls),
            wait_minutes=settings.wait_minutes,
            resources=settings.resources,
            task_memory=task_memory,
            deadline=settings.deadline,
        )
    raise ConfigError(
        f"--cluster {name}: unknown cluster; use serial, local, local-gpu, slurm or a scheduler address like tls://host:8786."
    )
