"""From the options `--cluster` and `--workers` to an executor."""

from typing import TYPE_CHECKING

from ssem_dask.cli import console

if TYPE_CHECKING:
    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
    from ssem_dask.runtime.executor import Executor


def open_executor(
    cluster: str | None,
    *,
    workers: int | None,
    table: "ClusterConfig | None" = None,
    task_memory: int = 0,
    task_gpu_memory: int = 0,
) -> "Executor":
    """Start or join the cluster that the options name; use it as a context manager, which closes it.

    Args:
        cluster: a name, an address, or a TOML file with a `[cluster]` table; None: as `table` says.
        workers: number of workers; None: as `table` says.
        table: `[cluster]` of the run's configuration; None: the defaults.
        task_memory: bytes that a worker needs for the largest task; 0 if unknown.
        task_gpu_memory: bytes of GPU memory that the largest task needs.

    Raises:
        ConfigError: see `cluster_settings` and `open_cluster`.
    """
    from ssem_dask.config.schema import cluster_settings
    from ssem_dask.runtime.clusters import open_cluster
    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig

    settings = cluster_settings(cluster, workers=workers, table=table or ClusterConfig())
    return open_cluster(
        settings.name,
        workers=settings.workers,
        settings=settings,
        task_memory=task_memory,
        task_gpu_memory=task_gpu_memory,
        note=console.note,
    )
